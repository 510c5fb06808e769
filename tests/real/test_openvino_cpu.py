"""Loading and dropping OpenVINO's engines leaves a process that signals do not end."""

import subprocess
import sys
from pathlib import Path

import pytest

_BEGIN = """
import os, signal, sys
from pathlib import Path
from endcap_server.engines.encoder_runtime import RuntimeOptions
from endcap_server.engines.encoders import open_encoder
from endcap_server.engines.llm import Llm

def handle(number, frame):
    print("handled", flush=True)
    os._exit(0)

signal.signal(signal.SIGTERM, handle)
build = Path(sys.argv[1])
"""
_LOAD = {
    "encoder": "open_encoder(build / 'cross_encoder', RuntimeOptions())",
    "llm": "Llm(build / 'theme_llm', cache_mb=16)",
}
_END = """
while engines:
    engine = engines.pop(0)
    if hasattr(engine, "close"):
        engine.close()
    del engine
os.kill(os.getpid(), signal.SIGTERM)
signal.pause()
"""


@pytest.mark.parametrize("faulthandler", [[], ["-X", "faulthandler"]], ids=["plain", "faulthandler"])
@pytest.mark.parametrize("engines", [("encoder", "encoder"), ("llm", "encoder"), ("encoder", "llm")])
def test_a_signal_is_handled_when_the_engines_are_gone(
    build: Path, engines: tuple[str, ...], faulthandler: list[str]
) -> None:
    program = f"{_BEGIN}engines = [{', '.join(_LOAD[each] for each in engines)}]{_END}"
    command = [sys.executable, *faulthandler, "-c", program, str(build)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr[-2000:]
