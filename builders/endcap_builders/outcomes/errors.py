"""The error of `endcap outcomes`."""

from endcap_builders.step import BuildError


class OutcomesError(BuildError):
    """Outcomes cannot be computed; the message says what was expected, what came, what to do."""
