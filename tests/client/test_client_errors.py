import contextlib
import socket
import threading

import grpc
import pytest
from endcap_client import (
    Client,
    DeadlineExceeded,
    EndcapError,
    InvalidArgument,
    ModelError,
    Overloaded,
    ProtocolError,
    Refused,
)

CODE = grpc.StatusCode
pytestmark = pytest.mark.usefixtures("both_clients")


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (CODE.INVALID_ARGUMENT, "PRODUCTS: expected 1..100, got 0", InvalidArgument),
        (CODE.NOT_FOUND, "Request for unknown model: 'storefront' is not found", ModelError),
        (CODE.UNAVAILABLE, "Request for unknown model: 'storefront' is not at ready state", ModelError),
        (CODE.UNAVAILABLE, "[request id: 1] Exceeds maximum queue size", Overloaded),
        (CODE.RESOURCE_EXHAUSTED, "out of shared memory", Overloaded),
        (CODE.UNAVAILABLE, "overloaded: 64 requests are under way, which is not found to be too few", Overloaded),
        (CODE.UNAVAILABLE, "Server is stopping, scheduler for model has stopped accepting new requests", ModelError),
        (CODE.UNAVAILABLE, "Socket closed", Refused),
        (CODE.UNAUTHENTICATED, "This protocol is restricted, expecting header 'key'", ProtocolError),
        (CODE.INTERNAL, "Failed to process the request(s) for model 'theme'", ModelError),
        (CODE.UNKNOWN, "something", ModelError),
        (CODE.DEADLINE_EXCEEDED, "Deadline Exceeded", DeadlineExceeded),
        (CODE.UNIMPLEMENTED, "unknown service", ProtocolError),
        (CODE.CANCELLED, "Request cancelled", EndcapError),
    ],
)
def test_the_server_s_status_becomes_our_error(service, address, code, details, kind):
    service.failure = (code, details)
    with Client(address) as client, pytest.raises(EndcapError) as caught:
        client.storefront()
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("details", "tensor", "expected", "got"),
    [
        ("PRODUCTS: expected 1..100, got 0", "PRODUCTS", "1..100", "0"),
        (
            "in ensemble 'storefront', RULES: expected known keys, got 'pins'; remove it",
            "RULES",
            "known keys",
            "'pins'",
        ),
        (
            "[request id: <id_unknown>] inference input 'PRODUCTS' data-type is 'FP32', but model 'storefront' "
            "expects 'INT32'",
            "PRODUCTS",
            "INT32",
            "FP32",
        ),
        (
            "[request id: <id_unknown>] unexpected shape for input 'PRODUCTS' for model 'storefront'. "
            "Expected [1], got [2]. NOTE: Setting a non-zero max_batch_size",
            "PRODUCTS",
            "[1]",
            "[2]",
        ),
        ("unexpected inference input 'FOO' for model 'storefront'", "FOO", "", "input"),
        ("something is wrong", "", "", ""),
    ],
)
def test_an_invalid_argument_names_its_tensor(service, address, details, tensor, expected, got):
    service.failure = (CODE.INVALID_ARGUMENT, details)
    with Client(address) as client, pytest.raises(InvalidArgument) as caught:
        client.storefront()
    assert (caught.value.tensor, caught.value.expected, caught.value.got) == (tensor, expected, got)
    assert str(caught.value) == details


@pytest.mark.parametrize("timeout_s", [0.05, 1.0])
def test_a_closed_port_is_never_a_timeout(closed_port, timeout_s):
    with Client(closed_port, timeout_s=timeout_s) as client:
        for _ in range(20):
            # On a busy machine 50 ms may pass before the refusal is heard of.
            reason = "connection refused" if timeout_s == 1.0 else ""
            with pytest.raises(Refused, match=f"no connection to {closed_port}: {reason}"):
                client.storefront()


def test_an_unknown_host():
    with Client("nowhere.invalid:8001", timeout_s=5.0) as client, pytest.raises(Refused, match="does not resolve"):
        client.storefront()


def test_a_host_that_does_not_answer_is_no_slow_server():
    """A full backlog drops connection attempts, as a host that is gone or a firewall does."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        port = listener.getsockname()[1]
        with Client(f"127.0.0.1:{port}") as client:
            for timeout_s in (0.2, 0.4, 1.5, 0.2):
                with pytest.raises(Refused, match="the host does not answer"):
                    client.storefront(timeout_s=timeout_s)


def test_a_slow_server_is_a_timeout(service, address):
    service.delay_s = 0.5
    with Client(address) as client:
        with pytest.raises(DeadlineExceeded, match=r"no answer of storefront from .* within 0\.1 s"):
            client.storefront(timeout_s=0.1)
        with pytest.raises(DeadlineExceeded):
            client.search("tea", timeout_s=0.1)


def test_what_is_not_grpc_is_not_a_refusal():
    """An HTTP server behind the address (the wrong one of Triton's ports) is told as such."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        with Client(f"127.0.0.1:{port}", timeout_s=5.0) as client, pytest.raises(ProtocolError, match="gRPC"):
            client.storefront()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def test_a_closed_client_says_so(service, address):
    client = Client(address)
    client.close()
    with pytest.raises(EndcapError, match="closed"):
        client.storefront()


def test_every_error_is_an_endcap_error_with_a_reason_of_its_own():
    kinds = (Refused, DeadlineExceeded, Overloaded, InvalidArgument, ModelError, ProtocolError)
    assert all(issubclass(kind, EndcapError) for kind in kinds)
    assert len({kind.reason for kind in kinds}) == len(kinds)


def test_an_error_says_how_it_came_about(service, address):
    service.failure = (CODE.INTERNAL, "model 'theme' died")
    with Client(address) as client, pytest.raises(ModelError) as caught:
        client.storefront()
    assert (caught.value.code, caught.value.attempts, caught.value.reason) == ("INTERNAL", 1, "model")
