"""Messages of Python's `logging` in Triton's log."""

import logging

import triton_python_backend_utils as pb_utils


class TritonHandler(logging.Handler):
    """Passes messages of this project's packages to Triton's log; warnings and worse."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log one."""
        said = pb_utils.Logger.log_error if record.levelno >= logging.ERROR else pb_utils.Logger.log_warn
        said(self.format(record))


def log_to_triton(model: str) -> None:
    """Send what this process logs to Triton's log, under the model's name."""
    handler = TritonHandler(logging.WARNING)
    handler.setFormatter(logging.Formatter(f"{model}: %(message)s"))
    logger = logging.getLogger("endcap_server")
    logger.addHandler(handler)
    logger.propagate = False
