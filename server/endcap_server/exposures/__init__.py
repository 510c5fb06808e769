"""Exposures: a record of every page that was shown, written beside the request's path."""
