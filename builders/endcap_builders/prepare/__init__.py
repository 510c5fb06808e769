"""Themes with keywords, made for many shoppers before they ask: `endcap prepare`."""
