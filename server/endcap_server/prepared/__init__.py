"""Prepared pages: themes with keywords that `endcap prepare` wrote, and the stores that hold them."""
