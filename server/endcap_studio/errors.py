"""Errors that a person at the studio is told in one sentence."""


class StudioError(Exception):
    """Something cannot be shown or done; the message says what was expected, what came, and what to do."""
