"""How often the quality checks of titles, products and placements are wrong, and how good pages are."""
