"""TLS and mTLS, with certificates made on the fly."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import trustme
from endcap_client import Client, InvalidArgument, Options, ProtocolError, Refused, Tls
from fake_server import serving

pytestmark = pytest.mark.usefixtures("both_clients")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """root.pem, another authority's other.pem, and the client's key.pem and chain.pem."""
    folder = tmp_path_factory.mktemp("tls")
    authority.cert_pem.write_to_path(str(folder / "root.pem"))
    trustme.CA().cert_pem.write_to_path(str(folder / "other.pem"))
    own = authority.issue_cert("ranking-service@example.org")
    own.private_key_pem.write_to_path(str(folder / "key.pem"))
    own.cert_chain_pems[0].write_to_path(str(folder / "chain.pem"))
    return folder


def credentials(authority: trustme.CA, name: str, mutual: bool) -> grpc.ServerCredentials:
    certificate = authority.issue_cert(name)
    pair = (certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())
    root = authority.cert_pem.bytes() if mutual else None
    return grpc.ssl_server_credentials([pair], root, require_client_auth=mutual)


@pytest.fixture
def tls_address(service, authority) -> Iterator[str]:
    with serving(service, credentials=credentials(authority, "127.0.0.1", mutual=False)) as address:
        yield address


@pytest.fixture
def mtls_address(service, authority) -> Iterator[str]:
    with serving(service, credentials=credentials(authority, "127.0.0.1", mutual=True)) as address:
        yield address


def options(**tls) -> Options:
    return Options(timeout_s=5.0, tls=Tls(**tls))


def test_tls(files, tls_address):
    with Client(tls_address, options=options(root_certificates=files / "root.pem")) as client:
        assert client.ready()
        assert client.storefront().placements


def test_mutual_tls(files, mtls_address):
    own = {"private_key": files / "key.pem", "certificate_chain": str(files / "chain.pem")}
    with Client(mtls_address, options=options(root_certificates=files / "root.pem", **own)) as client:
        assert client.storefront().placements


def test_a_server_asks_who_the_client_is(files, service, mtls_address):
    without = options(root_certificates=files / "root.pem")
    # In TLS 1.3 the client learns nothing but that the server hung up.
    with Client(mtls_address, options=without) as client, pytest.raises((ProtocolError, Refused)):
        client.storefront()
    assert not service.requests


def test_an_unknown_authority_is_not_trusted(files, tls_address):
    with Client(tls_address, options=options(root_certificates=files / "other.pem")) as client:
        with pytest.raises(ProtocolError, match=r"no TLS connection .* check the certificates"):
            client.storefront()
        with pytest.raises(ProtocolError):
            client.ready()


def test_the_certificate_s_name_must_fit(service, files, authority):
    root = {"root_certificates": files / "root.pem"}
    with serving(service, credentials=credentials(authority, "shop.example", mutual=False)) as address:
        with Client(address, options=options(**root)) as client, pytest.raises(ProtocolError, match="TLS"):
            client.storefront()
        with Client(address, options=options(server_name="shop.example", **root)) as client:
            assert client.storefront().placements


def test_in_the_clear_to_a_tls_port(tls_address):
    with Client(tls_address) as client, pytest.raises(Exception, match=tls_address) as caught:
        client.storefront()
    assert caught.value.reason in ("protocol", "refused")


def test_tls_to_a_port_in_the_clear(files, address):
    root = options(root_certificates=files / "root.pem")
    with Client(address, options=root) as client, pytest.raises(ProtocolError, match="TLS"):
        client.storefront()


def test_a_key_that_is_no_key(files, tmp_path, tls_address):
    (tmp_path / "key.pem").write_text("secret", encoding="utf-8")
    own = {"private_key": tmp_path / "key.pem", "certificate_chain": files / "chain.pem"}
    with pytest.raises(InvalidArgument, match=r"tls\.private_key: expected a PEM file"):
        Client(tls_address, options=options(root_certificates=files / "root.pem", **own))
