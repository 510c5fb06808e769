"""Who may do what: control calls without and with the key, on both protocols, and TLS."""

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import trustme
from endcap_client import Client, EndcapError, Options
from endcap_client import Tls as ClientTls
from endcap_server.launch import LaunchError, Server, ServerOptions, ServerTls, connect
from endcap_server.launch.command_line import hide_argument
from endcap_server.serving.processes import model_processes
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

Call = Callable[[InferenceServerClient], Any]
REGION = ("of_a_test", "/endcap-test-no-such-region", 64)
GRPC: dict[str, Call] = {
    "load": lambda client: client.load_model("fusion"),
    "unload": lambda client: client.unload_model("no_such_model"),
    "load, new config": lambda client: client.load_model("no_such_model", config="{}"),
    "repository index": lambda client: client.get_model_repository_index(),
    "model config": lambda client: client.get_model_config("fusion"),
    "statistics": lambda client: client.get_inference_statistics(),
    "statistics of a model": lambda client: client.get_inference_statistics("fusion"),
    "map memory": lambda client: client.register_system_shared_memory(*REGION),
    "mapped memory": lambda client: client.get_system_shared_memory_status(),
    "unmap memory": lambda client: client.unregister_system_shared_memory("of_a_test"),
    "map GPU memory": lambda client: client.register_cuda_shared_memory("of_a_test", b"", 0, 64),
    "mapped GPU memory": lambda client: client.get_cuda_shared_memory_status(),
    "unmap GPU memory": lambda client: client.unregister_cuda_shared_memory("of_a_test"),
    "trace settings": lambda client: client.get_trace_settings(),
    "change tracing": lambda client: client.update_trace_settings(settings={"trace_rate": "1000"}),
    "change a model's tracing": lambda client: client.update_trace_settings("fusion", {"trace_rate": "1000"}),
    "log settings": lambda client: client.get_log_settings(),
    "change logging": lambda client: client.update_log_settings({"log_verbose_level": 0}),
}
HTTP: dict[str, tuple[str, bytes | None]] = {
    "load": ("v2/repository/models/fusion/load", b"{}"),
    "unload": ("v2/repository/models/no_such_model/unload", b"{}"),
    "load, new config": ("v2/repository/models/no_such_model/load", b'{"parameters": {"config": "{}"}}'),
    "repository index": ("v2/repository/index", b"{}"),
    "model config": ("v2/models/fusion/config", None),
    "model config of a version": ("v2/models/fusion/versions/1/config", None),
    "statistics": ("v2/models/stats", None),
    "statistics of a model": ("v2/models/fusion/stats", None),
    "statistics of a version": ("v2/models/fusion/versions/1/stats", None),
    "map memory": (
        "v2/systemsharedmemory/region/of_a_test/register",
        b'{"key": "/endcap-test-no-such-region", "offset": 0, "byte_size": 64}',
    ),
    "mapped memory": ("v2/systemsharedmemory/status", None),
    "unmap memory": ("v2/systemsharedmemory/region/of_a_test/unregister", b"{}"),
    "unmap all memory": ("v2/systemsharedmemory/unregister", b"{}"),
    "map GPU memory": ("v2/cudasharedmemory/region/of_a_test/register", b"{}"),
    "mapped GPU memory": ("v2/cudasharedmemory/status", None),
    "unmap GPU memory": ("v2/cudasharedmemory/region/of_a_test/unregister", b"{}"),
    "trace settings": ("v2/trace/setting", None),
    "change tracing": ("v2/trace/setting", b'{"trace_rate": "1000"}'),
    "change a model's tracing": ("v2/models/fusion/trace/setting", b'{"trace_rate": "1000"}'),
    "log settings": ("v2/logging", None),
    "change logging": ("v2/logging", b'{"log_verbose_level": 0}'),
}
REFUSED_BY_WHAT_IS_ASKED = {
    "load, new config": ("no_such_model", "failed to load"),
    "map memory": ("Unable to open shared memory region",),
    "map GPU memory": ("Shared memory register request has no", "not supported", "failed to register", "GPU"),
}
"""What Triton answers to calls that pass the check and cannot be done; all others are done."""


def ask(server: Server, path: str, body: bytes | None, key: str) -> tuple[int, str]:
    sent = {"endcap-key": key} if key else {}
    request = urllib.request.Request(f"http://{server.http_address}/{path}", body, sent)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize("call", GRPC)
def test_grpc(server: Server, call: str) -> None:
    for key in ("", "0123456789abcdef0123456789abcdef", server.control_key[:-1]):
        with connect(server.grpc_address, key) as client:
            with pytest.raises(
                InferenceServerException, match="This protocol is restricted, expecting header"
            ) as error:
                GRPC[call](client)
            assert error.value.status() == "StatusCode.UNAVAILABLE"
    with server.control() as client:
        if reasons := REFUSED_BY_WHAT_IS_ASKED.get(call):
            with pytest.raises(InferenceServerException) as error:
                GRPC[call](client)
            assert any(reason in str(error.value.message()) for reason in reasons), error.value.message()
        else:
            GRPC[call](client)


@pytest.mark.parametrize("call", HTTP)
def test_http(server: Server, call: str) -> None:
    path, body = HTTP[call]
    for key in ("", "0123456789abcdef0123456789abcdef", server.control_key[:-1]):
        status, text = ask(server, path, body, key)
        assert status == 403
        assert "This API is restricted, expecting header 'endcap-key'" in text
    status, text = ask(server, path, body, server.control_key)
    if reasons := REFUSED_BY_WHAT_IS_ASKED.get(call):
        assert status in (400, 500)
        assert any(reason in text for reason in reasons), text
    else:
        assert status == 200, text


def test_pages_health_and_metadata_need_no_key(server: Server) -> None:
    with Client(server.grpc_address, timeout_s=10) as client:
        assert client.ready()
        assert client.search("lamp").products
    for path in ("v2/health/live", "v2/health/ready", "v2/models/storefront/ready", "v2", "v2/models/storefront"):
        assert ask(server, path, None, "")[0] == 200
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10) as answer:
        assert b"nv_inference_request_success" in answer.read()


def test_the_key_is_nowhere_to_be_read(server: Server, build: Path) -> None:
    assert server.process is not None
    key = server.control_key.encode()
    assert (build / "control.key").stat().st_mode & 0o777 == 0o600
    assert key not in server.log.path.read_bytes()
    everything = subprocess.run(["ps", "axeww", "-o", "args="], capture_output=True, check=True).stdout
    if key in everything and not hide_argument(server.process.pid, server.control_key):
        pytest.skip("the kernel lets nobody write a process's memory")
    assert key not in everything, "on no command line and in no environment"
    assert b"--grpc-restricted-protocol=" in everything
    for process in (server.process.pid, *model_processes(server.process.pid)):
        assert key not in Path(f"/proc/{process}/environ").read_bytes()


def test_open_control(build: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "endcap_client.cli", "serve", "--build", str(build), "--open-control"]
    answer = subprocess.run([*command, "--address", "0.0.0.0"], capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "--open-control on 0.0.0.0 would let everybody who reaches it load models" in answer.stderr
    answer = subprocess.run([*command, "--client-ca", "root.pem"], capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "--client-ca needs --tls" in answer.stderr


def test_a_key_that_others_may_read(build: Path, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("0123456789abcdef\n", encoding="utf-8")
    path.chmod(0o644)
    with pytest.raises(LaunchError, match="expected mode 0600"):
        Server(ServerOptions(build=build, grpc_port=0, http_port=0, metrics_port=0, key_file=path))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PEM files of an authority, of a server and of a client that it has signed, and of another authority's client."""
    folder = tmp_path_factory.mktemp("certificates")
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "root.pem"))
    issued = {
        "server": authority.issue_cert("127.0.0.1"),
        "client": authority.issue_cert("ranking-service@example.org"),
        "stranger": other.issue_cert("ranking-service@example.org"),
    }
    for name, certificate in issued.items():
        certificate.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
        certificate.private_key_pem.write_to_path(str(folder / f"{name}.key"))
    return folder


def client_options(certificates: Path, name: str = "") -> Options:
    own = {"private_key": certificates / f"{name}.key", "certificate_chain": certificates / f"{name}.pem"}
    return Options(timeout_s=5.0, tls=ClientTls(root_certificates=certificates / "root.pem", **(own if name else {})))


def tls_server(build: Path, key_file: Path, tls: ServerTls) -> Server:
    # All addresses: what must not be reachable from outside is then seen not to be.
    options = ServerOptions(
        build=build, address="0.0.0.0", grpc_port=0, http_port=0, metrics_port=0, key_file=key_file, tls=tls
    )
    return Server(options)


@pytest.fixture(scope="module")
def mutual(build: Path, certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    tls = ServerTls(certificates / "server.pem", certificates / "server.key", certificates / "root.pem")
    with tls_server(build, tmp_path_factory.mktemp("keys") / "mutual.key", tls) as running:
        yield running


def test_tls(build: Path, certificates: Path, tmp_path: Path) -> None:
    tls = ServerTls(certificates / "server.pem", certificates / "server.key")
    with tls_server(build, tmp_path / "key", tls) as server:
        address = f"127.0.0.1:{server.grpc_port}"
        with Client(address, options=client_options(certificates)) as client:
            assert client.ready()
            assert client.search("lamp").products
        with Client(address, timeout_s=2) as plain:
            assert not plain.ready()
            with pytest.raises(EndcapError):
                plain.search("lamp")
        encrypted = {"ssl": True, "root_certificates": str(certificates / "root.pem")}
        with connect(address, server.control_key, **encrypted) as control:
            assert control.get_model_repository_index().models
        with connect(address, "", **encrypted) as nobody, pytest.raises(InferenceServerException, match="restricted"):
            nobody.get_model_repository_index()
        assert server.http_address.startswith("127.0.0.1:")
        assert ask(server, "v2/repository/index", b"{}", server.control_key)[0] == 200, "the watchdog's way"
        assert server.process is not None
        sockets = psutil.Process(server.process.pid).net_connections("tcp")
        places = {each.laddr.port: each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN}
        assert places.pop(server.grpc_port) in ("0.0.0.0", "::")
        assert places == {server.http_port: "127.0.0.1", server.metrics_port: "127.0.0.1"}


def test_mutual_tls(mutual: Server, certificates: Path) -> None:
    with Client(f"127.0.0.1:{mutual.grpc_port}", options=client_options(certificates, "client")) as client:
        assert client.ready()
        assert client.search("lamp").products


@pytest.mark.parametrize("name", ["", "stranger"])
def test_mutual_tls_asks_who_the_client_is(mutual: Server, certificates: Path, name: str) -> None:
    address, options = f"127.0.0.1:{mutual.grpc_port}", client_options(certificates, name)
    with Client(address, options=options) as client, pytest.raises(EndcapError):
        client.search("lamp")
