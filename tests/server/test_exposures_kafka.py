"""Exposures to Kafka: librdkafka's mock broker is stopped, killed, and gone from the start."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from endcap_server.exposures.folder import ExposureFolder
from endcap_server.exposures.kafka import KafkaError, KafkaWriter, read_settings
from endcap_server.exposures.ledger import Ledger
from endcap_server.exposures.record import FOLDER_VARIABLE
from endcap_server.exposures.sink import ExposureSink
from endcap_server.stages.exposing import open_sink
from endcap_server.stages.fusion_parameters import FusionParameters
from test_exposures import exposure
from waiting import wait_for

pytest.importorskip("confluent_kafka", reason="needs confluent-kafka: pip install 'endcap[kafka]'")

from benchmarks.mock_kafka import MockBroker

TOPIC = "shown"
QUIET = {"log_level": "0"}


@pytest.fixture
def broker() -> Iterator[MockBroker]:
    with MockBroker() as running:
        yield running


def sending(folder: Path, address: str, waiting: int = 1000, **settings: str) -> ExposureSink:
    ledger = Ledger(folder, "p")
    given = {name.replace("_", "."): value for name, value in settings.items()}
    writer = KafkaWriter(ledger, {"bootstrap.servers": address, **QUIET, **given}, TOPIC)
    return ExposureSink(writer, ledger, waiting)


def test_a_parameter_sends_the_same_records_to_kafka(
    broker: MockBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kafka.properties").write_text(f"# brokers\nbootstrap.servers = {broker.address}\n", encoding="utf-8")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "exposures"))
    parameters = {"exposure_kafka": str(tmp_path / "kafka.properties"), "exposure_topic": TOPIC}
    sink = open_sink(FusionParameters.model_validate(parameters))
    assert sink is not None
    for number in range(300):
        sink.offer(exposure(str(number), "ab" if number % 2 else ""))
    sink.close()
    assert sink.counts() == {"written": 300, "dropped": 0, "failed": 0, "lost": 0}
    messages = broker.messages(TOPIC, 300)
    found = {record["sequence"]: (key, record) for key, value in messages for record in [json.loads(value)]}
    assert sorted(found) == list(range(300))
    for number, (key, record) in found.items():
        assert key == (b"ab" if number % 2 else b"")
        expected = exposure(str(number), "ab" if number % 2 else "").line(record["process"], number)
        assert record == json.loads(expected)
    assert not list((tmp_path / "exposures").glob("*.jsonl")), "nothing of it is in files"


def test_a_broker_that_hangs_drops_and_then_takes_what_waits(broker: MockBroker, tmp_path: Path) -> None:
    sink = sending(tmp_path, broker.address, waiting=50, queue_buffering_max_messages="100")
    sink.offer(exposure("0"))
    wait_for(lambda: sink.counts()["written"] == 1, "the first record")
    broker.pause()
    for number in range(1, 1000):
        sink.offer(exposure(str(number)))
    wait_for(lambda: sink.counts()["dropped"], "drops")
    broker.go_on()
    wait_for(lambda: sink.counts()["written"] + sink.counts()["dropped"] == 1000, "an account of each")
    sink.close()
    counts = sink.counts()
    assert counts["failed"] == counts["lost"] == 0
    assert counts["dropped"] >= 1000 - 1 - 50 - 100 - 256
    sequences = [json.loads(value)["sequence"] for _, value in broker.messages(TOPIC, counts["written"])]
    assert len(set(sequences)) == len(sequences) == counts["written"]


def test_a_broker_that_dies_fails_and_counts(broker: MockBroker, tmp_path: Path) -> None:
    sink = sending(tmp_path, broker.address, message_timeout_ms="1500")
    sink.offer(exposure("0"))
    wait_for(lambda: sink.counts()["written"] == 1, "the first record")
    broker.kill()
    for number in range(1, 400):
        sink.offer(exposure(str(number)))
    wait_for(lambda: sink.counts()["failed"] == 399, "the failures")
    sink.close()
    assert sink.counts() == {"written": 1, "dropped": 0, "failed": 399, "lost": 0}
    assert ExposureFolder(tmp_path).totals() == {"offered": 400, "dropped": 0, "written": 1, "failed": 399, "lost": 0}


def test_a_server_that_stops_gives_up_what_no_broker_takes(tmp_path: Path) -> None:
    sink = sending(tmp_path, "127.0.0.1:9", queue_buffering_max_messages="100")
    for number in range(300):
        sink.offer(exposure(str(number)))
    sink.close()
    assert sink.counts() == {"written": 0, "dropped": 0, "failed": 300, "lost": 0}


def test_a_page_that_kafka_refuses_fails_alone(broker: MockBroker, tmp_path: Path) -> None:
    sink = sending(tmp_path, broker.address, message_max_bytes="1000")
    sink.offer(exposure("x" * 2000))
    sink.offer(exposure("small"))
    sink.close()
    assert sink.counts() == {"written": 1, "dropped": 0, "failed": 1, "lost": 0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bootstrap.servers", "kafka.properties, line 1: expected NAME=VALUE"),
        ("# nothing\n\n", "expected bootstrap.servers=HOST:PORT, got no settings"),
        ("sasl.password=secret", "expected bootstrap.servers=HOST:PORT, got sasl.password"),
    ],
)
def test_wrong_settings_are_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "kafka.properties").write_text(text, encoding="utf-8")
    with pytest.raises(KafkaError, match=message):
        read_settings(tmp_path / "kafka.properties")


def test_settings_that_librdkafka_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(KafkaError, match=r'expected settings of librdkafka, got .*"no\.such"'):
        sending(tmp_path, "127.0.0.1:9", no_such="1")
    with pytest.raises(KafkaError, match="expected a file with settings of librdkafka"):
        read_settings(tmp_path / "missing")
