import math

import pytest
from endcap_client import Client, Hedge, InvalidArgument, Keepalive, Options, Retry, Tls


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Options(timeout_s=0), "timeout_s"),
        (lambda: Options(timeout_s=True), "timeout_s"),
        (lambda: Options(margin_ms=math.inf), "margin_ms"),
        (lambda: Options(max_send_bytes=0), "max_send_bytes"),
        (lambda: Options(max_receive_bytes=1 << 40), "max_receive_bytes"),
        (lambda: Options(storefront_model=""), "storefront_model"),
        (lambda: Options(retry=3), "retry"),
        (lambda: Options(hedge=True), "hedge"),
        (lambda: Options(metadata={"Upper": "x"}), "metadata"),
        (lambda: Options(metadata={"grpc-timeout": "1"}), "metadata"),
        (lambda: Options(metadata={"key": "ünprintable"}), "metadata"),
        (lambda: Options(metadata={"key-bin": "text"}), "metadata"),
        (lambda: Options(metadata=[("a", "b")]), "metadata"),
        (lambda: Retry(attempts=0), "retry.attempts"),
        (lambda: Retry(base_ms=-1), "retry.base_ms"),
        (lambda: Retry(base_ms=100, max_ms=50), "retry.max_ms"),
        (lambda: Retry(budget_share=1.5), "retry.budget_share"),
        (lambda: Hedge(quantile=0.2), "hedge.quantile"),
        (lambda: Hedge(min_calls=1000), "hedge.min_calls"),
        (lambda: Keepalive(time_ms=10), "keepalive.time_ms"),
        (lambda: Tls(private_key="key.pem"), "tls.certificate_chain"),
        (lambda: Tls(certificate_chain="chain.pem"), "tls.private_key"),
        (lambda: Client(options={"timeout_s": 1}), "options"),
        (lambda: Client([]), "address"),
        (lambda: Client(["a:1", "a:1"]), "address"),
        (lambda: Client(["a:1", 7]), "address"),
    ],
)
def test_a_wrong_value_is_named(make, name):
    with pytest.raises(InvalidArgument) as caught:
        make()
    assert caught.value.tensor == name
    assert caught.value.expected
    assert caught.value.got


def test_a_secret_does_not_get_into_the_error():
    with pytest.raises(InvalidArgument) as caught:
        Options(metadata={"authorization": "Bearer s3cr3t\n"})
    assert "s3cr3t" not in str(caught.value)


def test_files_that_are_no_certificates(tmp_path):
    with pytest.raises(InvalidArgument, match=r"tls\.root_certificates: expected a readable PEM file"):
        Client("localhost:1", options=Options(tls=Tls(root_certificates=tmp_path / "none.pem")))
    (tmp_path / "empty.pem").write_bytes(b"")
    with pytest.raises(InvalidArgument, match=r"tls\.root_certificates: expected a PEM file"):
        Client("localhost:1", options=Options(tls=Tls(root_certificates=tmp_path / "empty.pem")))


def test_keepalive_becomes_channel_arguments():
    arguments = dict(Options(keepalive=Keepalive(time_ms=20_000, timeout_ms=3_000)).channel_arguments())
    assert arguments["grpc.keepalive_time_ms"] == 20_000
    assert arguments["grpc.keepalive_timeout_ms"] == 3_000
    assert arguments["grpc.keepalive_permit_without_calls"] == 0
    assert "grpc.keepalive_time_ms" not in dict(Options().channel_arguments())


def test_the_client_s_timeout_goes_before_that_of_the_options():
    with Client("localhost:1", timeout_s=0.7, options=Options(timeout_s=9, margin_ms=3)) as client:
        assert (client.options.timeout_s, client.options.margin_ms) == (0.7, 3)
