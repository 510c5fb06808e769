"""Errors of commands that start a server or change a running one; each message says what to do."""


class LaunchError(Exception):
    """The server cannot be started; the message is one sentence that says what to do."""


class ApplyError(Exception):
    """A rollout cannot go on; the message says what, why and what to do. Nothing live has changed."""
