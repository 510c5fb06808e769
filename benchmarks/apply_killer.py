"""Runs `endcap COMMAND ...` and kills its own process at a step of the rollout, as a power cut would.

    python -P benchmarks/apply_killer.py STEP before|after apply ...

"before": the journal holds the step, but the step is not done; "after": the step is done, but the journal does not
hold the next one.
"""

import os
import signal
import sys
from typing import Any

from endcap_client.cli import main
from endcap_server.serving.journal import Journal


def kill_at(step: str, when: str) -> None:
    """Patch the journal so that it kills this process at the step."""
    write = Journal.write
    came = False

    def write_and_die(self: Journal, event: str, generation: int, **more: Any) -> None:
        nonlocal came
        if came and when == "after" and event != "compared":
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, event, generation, **more)
        came = came or (event == "step" and more.get("step") == step)
        if came and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)

    Journal.write = write_and_die  # type: ignore[method-assign]


if __name__ == "__main__":
    kill_at(*sys.argv[1:3])
    sys.exit(main(sys.argv[3:]))
