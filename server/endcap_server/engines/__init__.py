"""Engines: plain classes that each own one compiled model and answer several requests in one batch."""
