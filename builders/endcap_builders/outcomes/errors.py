"""The error of `endcap outcomes`."""

from endcap_builders.pipeline import BuildError


class OutcomesError(BuildError):
    """Outcomes cannot be computed; the message says what was expected, what came, what to do."""
