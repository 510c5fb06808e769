import socket
import urllib.error
import urllib.request

import pytest
from endcap_server.launch.health import Health
from endcap_server.launch.listening import free_ports
from endcap_server.serving.errors import LaunchError


def status(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_ready_as_triton_says_until_it_drains():
    (port,) = free_ports(("127.0.0.1", 0, "--health-port"))
    triton = [True]
    health = Health("127.0.0.1", port, lambda: triton[0])
    health.start()
    try:
        assert (status(port, "/ready"), status(port, "/live")) == (200, 200)
        triton[0] = False
        assert (status(port, "/ready"), status(port, "/live")) == (503, 200)
        triton[0] = True
        health.draining = True
        assert (status(port, "/ready"), status(port, "/live")) == (503, 200)
        assert status(port, "/other") == 404
    finally:
        health.stop()
    with pytest.raises(urllib.error.URLError):
        status(port, "/live")


def test_an_ipv6_address():
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    (port,) = free_ports(("::1", 0, "--health-port"))
    health = Health("::1", port, lambda: True)
    health.start()
    with urllib.request.urlopen(f"http://[::1]:{port}/ready", timeout=20) as answer:
        assert answer.status == 200
    health.stop()


def test_a_port_that_was_taken_meanwhile():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(LaunchError, match="choose another --health-port"):
            Health("127.0.0.1", taken.getsockname()[1], lambda: True).start()
