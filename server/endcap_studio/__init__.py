"""The studio: a local web page where merchandisers see pages, rules, themes, generations and outcomes of a shop."""
