"""Errors that models raise and that reach clients as statuses."""

from enum import StrEnum

from endcap_server.declared.reasons import Cause


class EngineError(Exception):
    """An engine could not answer; `cause` is the reason as a code, `reason` as a sentence."""

    def __init__(self, engine: str, reason: str, cause: Cause = Cause.FAILED):
        super().__init__(f"{engine}: {reason}")
        self.engine = engine
        self.reason = reason
        self.cause = cause


class EngineTimeout(EngineError):  # noqa: N818 - what happened, not whose fault
    """An engine did not answer before the deadline of the call."""

    def __init__(
        self, engine: str, reason: str = "no answer within its share of the budget", cause: Cause = Cause.LATE
    ):
        super().__init__(engine, reason, cause)


class InvalidRequest(ValueError):  # noqa: N818 - the status it becomes
    """A request that the contract does not allow; reaches the client as INVALID_ARGUMENT.

    Args:
        tensor: Name of the input tensor.
        expected: What the contract asks for.
        got: What came.
        advice: What to do, if that is not obvious.
    """

    def __init__(self, tensor: str, expected: str, got: str, advice: str = ""):
        super().__init__(f"{tensor}: expected {expected}, got {got}" + (f"; {advice}" if advice else ""))
        self.tensor = tensor
        self.expected = expected
        self.got = got
        self.advice = advice


class OverloadError(Exception):
    """The request cannot be answered in time because of the load; reaches the client as UNAVAILABLE, at once.

    `code` is one of the refusals that the stage declares.
    """

    def __init__(self, message: str, code: StrEnum):
        super().__init__(message)
        self.code = code


class ParameterError(ValueError):
    """A parameter of a stage's ``config.pbtxt`` that the stage does not know or cannot use."""

    def __init__(self, stage: str, parameter: str, expected: str, got: str):
        super().__init__(
            f"{stage}, parameter {parameter}: expected {expected}, got {got}; correct it in {stage}/config.pbtxt"
        )
        self.stage = stage
        self.parameter = parameter
