"""Processes by name, their memory and their CPU."""

import os
import socket
import subprocess
import sys
import time

from benchmarks.processes import Elsewhere, ProcessTree, ProcessUse, between, name_of

_WORK = "import sys, time; held = bytearray(40 << 20); print('up', flush=True)\nwhile True: sum(range(10000))"


def test_stubs_are_named_by_their_model() -> None:
    stub = ["/x/triton_python_backend_stub", "/build/demo/repository/cross_encoder/1/model.py", "prefix", "8"]
    assert name_of(stub, "triton_python_b") == "cross_encoder"
    assert name_of(["/opt/tritonserver", "--model-repository=/x"], "tritonserver") == "tritonserver"


def test_use_of_a_working_child() -> None:
    child = subprocess.Popen([sys.executable, "-c", _WORK], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        tree = ProcessTree(child.pid)
        before, start = tree.use(), time.monotonic()
        elsewhere = Elsewhere()
        time.sleep(1.0)
        (name,) = before
        use = between(before, tree.use(), time.monotonic() - start)
        assert tree.pids() == {child.pid}
        assert use["processes"][name]["pss_mb"] > 40
        assert 0 < use["processes"][name]["cores"] < 1.3
        assert use["total"] == use["processes"][name]
        assert 0 <= elsewhere.cores() <= (os.cpu_count() or 1) + 0.5
    finally:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
    assert tree.pids() <= {child.pid}


def test_totals_of_processes_that_came_and_stayed() -> None:
    before = {"rerank": ProcessUse(1, 10.0, 5.0)}
    after = {"rerank": ProcessUse(1, 12.0, 7.0), "theme": ProcessUse(2, 3.0, 1.0)}
    found = between(before, after, 2.0)
    assert found["processes"] == {"rerank": {"pss_mb": 12.0, "cores": 1.0}, "theme": {"pss_mb": 3.0, "cores": 0.5}}
    assert found["total"] == {"pss_mb": 15.0, "cores": 1.5}


def test_found_by_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        tree = ProcessTree.listening_on(listening.getsockname()[1])
        assert tree is not None
        assert os.getpid() in tree.pids()
        port = listening.getsockname()[1]
    assert ProcessTree.listening_on(port) is None
