"""librdkafka's mock broker in a process of its own, which can be stopped, slowed and killed."""

import os
import signal
import subprocess
import sys
from types import TracebackType

from confluent_kafka import Consumer, TopicPartition

_PROGRAM = """
import sys, time
from confluent_kafka import Producer
broker = Producer({"test.mock.num.brokers": 1})
print(*broker.list_topics(timeout=10).brokers.values(), flush=True)
while True:
    broker.poll(1)
"""


class MockBroker:
    """A broker on a free port of this machine; a context manager."""

    def __enter__(self) -> "MockBroker":
        self._process = subprocess.Popen([sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().split("/")[0]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def pause(self) -> None:
        """Answer nothing until :meth:`go_on`."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Answer again."""
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it, with all that it has."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def messages(self, topic: str, count: int) -> list[tuple[bytes, bytes]]:
        """Key and value of so many messages, in no order, or of all that come within some seconds."""
        consumer = Consumer({"bootstrap.servers": self.address, "group.id": "test", "enable.auto.commit": "false"})
        try:
            parts = consumer.list_topics(topic, timeout=10).topics[topic].partitions
            consumer.assign([TopicPartition(topic, part, 0) for part in parts])
            found: list[tuple[bytes, bytes]] = []
            while len(found) < count and (message := consumer.poll(5)) is not None:
                assert message.error() is None, message.error()
                found.append((message.key() or b"", message.value() or b""))
            return found
        finally:
            consumer.close()
