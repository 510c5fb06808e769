"""The control client of a server that ends in the middle of a call."""

import socket
import threading

import pytest
from endcap_server.serving.control import Control, ControlError


def test_a_connection_that_is_closed_without_an_answer_is_a_control_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up() -> None:
            for _ in range(3):
                connection, _ = listening.accept()
                connection.recv(65536)
                connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        control = Control(f"127.0.0.1:{listening.getsockname()[1]}", timeout_s=5)
        with pytest.raises(ControlError, match="does not answer"):
            control.load("fusion")
        with pytest.raises(ControlError, match="does not answer"):
            control.states()
        assert not control.is_ready()
