"""Exposures to Kafka, by librdkafka: a message per page, with the shopper's hash as its key."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from endcap_server.exposures.ledger import Ledger
from endcap_server.exposures.log import LOG
from endcap_server.exposures.record import Numbered

_DEFAULTS = {
    "client.id": "endcap",
    "enable.idempotence": "true",
    "linger.ms": "100",
    "compression.type": "lz4",
    "queue.buffering.max.messages": "2000",
}
_BROKERS = ("bootstrap.servers", "metadata.broker.list", "test.mock.num.brokers")
_ROOM_S = 0.1
_STOP_S = 4.0


class KafkaError(ValueError):
    """The settings of Kafka are wrong, or what speaks to it is not installed."""


def read_settings(file: Path) -> dict[str, str]:
    """The settings of librdkafka in a file: lines of NAME=VALUE; empty ones and those with # are left out.

    Raises:
        KafkaError: The file cannot be read, has another line, or names no brokers.
    """
    settings = {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise KafkaError(f"{file}: expected a file with settings of librdkafka, got {error}") from None
    for number, line in enumerate(lines, 1):
        if (said := line.strip()) and not said.startswith("#"):
            name, equals, value = said.partition("=")
            if not equals:
                # The line itself may be a password.
                raise KafkaError(f"{file}, line {number}: expected NAME=VALUE, got no '='")
            settings[name.strip()] = value.strip()
    if not any(name in settings for name in _BROKERS):
        raise KafkaError(f"{file}: expected bootstrap.servers=HOST:PORT, got {', '.join(settings) or 'no settings'}")
    return settings


class KafkaWriter:
    """Sends exposures to a topic. Its messages are counted when the broker has them, or has not taken them.

    Args:
        ledger: Of this process.
        settings: Of librdkafka, beside the defaults of this module.
        topic: Name of the topic.

    Raises:
        KafkaError: A setting is wrong, or confluent-kafka is not installed.
    """

    def __init__(self, ledger: Ledger, settings: Mapping[str, str], topic: str):
        try:
            from confluent_kafka import KafkaException, Producer
        except ModuleNotFoundError:
            raise KafkaError(
                "exposures to Kafka need confluent-kafka; install it with pip install 'endcap[kafka]'"
            ) from None
        try:
            self._producer: Any = Producer({**_DEFAULTS, **settings})
        except KafkaException as error:
            raise KafkaError(f"expected settings of librdkafka, got {error.args[0].str()}") from None
        self._refused: type[Exception] = KafkaException
        self._ledger, self._topic = ledger, topic
        self._until = float("inf")
        """Time of the monotonic clock from which nothing is waited for."""

    def write(self, taken: Sequence[Numbered]) -> None:
        """Hand exposures to librdkafka; while its queue is full, wait."""
        for number, exposure in taken:
            line = exposure.line(self._ledger.process, number)
            while not self._sent(exposure.shopper, line[:-1]):
                self._producer.poll(_ROOM_S)
        self._producer.poll(0)

    def _sent(self, key: str, value: bytes) -> bool:
        try:
            self._producer.produce(self._topic, value=value, key=key or None, on_delivery=self._delivered)
        except BufferError:
            if time.monotonic() < self._until:
                return False
            self._failed("the sink stops, and librdkafka's queue is full")
        except self._refused as error:  # for example, a page larger than message.max.bytes
            self._failed(error)
        return True

    def _delivered(self, error: object, _: object) -> None:
        if error:
            self._failed(error)
        else:
            self._ledger.add("written")

    def _failed(self, reason: object) -> None:
        self._ledger.add("failed")
        LOG.warning("exposures: Kafka did not take one: %s", reason)

    def tick(self) -> None:
        """Take the broker's answers."""
        self._producer.poll(0)

    def close(self) -> bool:
        """When the sink stops, wait a little for the broker's answers; then give up what is not delivered.

        Returns:
            True: nothing of Kafka's is in the folder.
        """
        if self._until < float("inf") and self._producer.flush(max(0.0, self._until - time.monotonic())):
            self._producer.purge()
            self._producer.flush(_ROOM_S)
        return True

    def stop(self) -> None:
        """Wait a few seconds more, and then for nothing."""
        self._until = time.monotonic() + _STOP_S
