import socket
from pathlib import Path

import pytest
import trustme
from endcap_server.launch import LaunchError, ServerTls
from endcap_server.launch.listening import check_address, free_ports, loopback_beside

CERTIFICATE, KEY, AUTHORITY = "server.pem", "server.key", "root.pem"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificate and key of a server, another one's key, and the authority of both."""
    folder = tmp_path_factory.mktemp("listening")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / AUTHORITY))
    own = authority.issue_cert("127.0.0.1")
    own.cert_chain_pems[0].write_to_path(str(folder / CERTIFICATE))
    own.private_key_pem.write_to_path(str(folder / KEY))
    authority.issue_cert("127.0.0.1").private_key_pem.write_to_path(str(folder / "other.key"))
    (folder / "text").write_text("no certificate\n", encoding="utf-8")
    return folder


def test_files_that_fit(files: Path) -> None:
    tls = ServerTls(files / CERTIFICATE, files / KEY)
    tls.check()
    assert tls.flags()[0] == "--grpc-use-ssl=true"
    mutual = ServerTls(files / CERTIFICATE, files / KEY, files / AUTHORITY)
    mutual.check()
    assert mutual.flags()[0] == "--grpc-use-ssl-mutual=true"
    assert mutual.flags()[-1] == f"--grpc-root-cert={files / AUTHORITY}"


@pytest.mark.parametrize(
    ("certificate", "key", "authority", "message"),
    [
        ("nothing", KEY, None, r"--tls: cannot read .*nothing \(No such file or directory\)"),
        (CERTIFICATE, "nothing", None, r"--tls: cannot read .*nothing \(No such file or directory\)"),
        (CERTIFICATE, "other.key", None, r"--tls: expected a certificate and its own .*mismatch"),
        (KEY, CERTIFICATE, None, "--tls: expected a certificate and its own unencrypted key, both PEM"),
        ("text", KEY, None, "--tls: expected a certificate and its own unencrypted key, both PEM"),
        (CERTIFICATE, KEY, "nothing", r"--client-ca: cannot read .*nothing"),
        (CERTIFICATE, KEY, "text", "--client-ca: expected PEM certificates of authorities"),
    ],
)
def test_files_that_do_not_fit(files: Path, certificate: str, key: str, authority: str | None, message: str) -> None:
    tls = ServerTls(files / certificate, files / key, files / authority if authority else None)
    with pytest.raises(LaunchError, match=message):
        tls.check()


def test_addresses(files: Path) -> None:
    tls = ServerTls(files / CERTIFICATE, files / KEY)
    for address in ("127.0.0.1", "localhost", "::1"):
        check_address(address, None, plaintext=False, restricted=True)
        check_address(address, None, plaintext=False, restricted=False)
    check_address("0.0.0.0", tls, plaintext=False, restricted=True)
    check_address("0.0.0.0", None, plaintext=True, restricted=True)
    with pytest.raises(LaunchError, match=r"listening on 0\.0\.0\.0 without TLS: .* give --tls .*, or --plaintext"):
        check_address("0.0.0.0", None, plaintext=False, restricted=True)
    with pytest.raises(LaunchError, match=r"--open-control on 0\.0\.0\.0 would let everybody"):
        check_address("0.0.0.0", tls, plaintext=False, restricted=False)
    with pytest.raises(LaunchError, match="--tls and --plaintext contradict each other"):
        check_address("127.0.0.1", tls, plaintext=True, restricted=True)


def test_what_speaks_no_tls_stays_inside(files: Path) -> None:
    tls = ServerTls(files / CERTIFICATE, files / KEY)
    assert loopback_beside("0.0.0.0", tls) == "127.0.0.1"
    assert loopback_beside("::1", tls) == "::1"
    assert loopback_beside("0.0.0.0", None) == "0.0.0.0"


def test_free_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [("127.0.0.1", 0, f"--{name}-port") for name in ("grpc", "http", "metrics")]
    for _ in range(50):
        ports = free_ports(*wanted)
        assert len(set(ports)) == 3
    assert free_ports(("127.0.0.1", ports[0], "--grpc-port"), ("127.0.0.1", 0, "--http-port"))[0] == ports[0]
    # Where all ports are given to outgoing connections, the kernel picks.
    monkeypatch.setattr("endcap_server.launch.listening._FIRST_PICKED", 60_000)
    assert len(set(free_ports(*wanted))) == 3


def test_ports_that_are_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LaunchError, match=rf"cannot listen on 127.0.0.1:{port} .* choose another --http-port"):
            free_ports(("127.0.0.1", 0, "--grpc-port"), ("127.0.0.1", port, "--http-port"))
    with pytest.raises(LaunchError, match=rf"--grpc-port and --http-port: expected two ports, got {port} twice"):
        free_ports(("127.0.0.1", port, "--grpc-port"), ("127.0.0.1", port, "--http-port"))
