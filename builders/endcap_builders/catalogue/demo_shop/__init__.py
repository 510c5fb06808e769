"""The words of the demo shop: departments and their product lines, missions, households."""
