"""The heavy part of serving: plain classes that each own one compiled model and answer several requests at once."""
