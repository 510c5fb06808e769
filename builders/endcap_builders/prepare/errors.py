"""The error of `endcap prepare`."""

from endcap_builders.step import BuildError


class PrepareError(BuildError):
    """Pages cannot be prepared; the message says why."""
