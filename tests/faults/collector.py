"""The role ingestion with senders that count: what was acknowledged must be on the topics, in order, once."""

from __future__ import annotations

import itertools
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import sqlalchemy as sa
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from tests.faults.topic_contents import Held, contents, repeats
from tests.servers import stack
from tests.servers.postgres import Postgres
from tests.servers.process import free_port, running

from headspring.gateway.auth.keys import KeyStore
from headspring.proto import codec
from headspring.proto.clock import SystemClock
from headspring.proto.telemetry import LogBatch, MetricBatch
from headspring.proto.topics import LOGS, METRICS

SERVICES = 6
"""Each with metrics and with logs."""
POINTS = 20
"""Samples in a request; a request has ten log lines."""
LINES = 10
EVERY_S = 0.05
LONGEST_ANSWER_S = 10.0
"""What an exporter of OpenTelemetry waits for by default."""
_SENDER = 1_000_000_000
"""Values of a sender are `number of the sender × this + its own count`."""


@dataclass
class Answers:
    """What senders were told."""

    taken: dict[int, list[int]] = field(default_factory=dict)
    """Acknowledged counts, by sender, in the order sent."""
    refused: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


class Senders:
    """A thread for each service's metrics and one for its logs; each sends its next request when the last is taken."""

    def __init__(self, url: str, key: str) -> None:
        self.metrics = Answers(taken={number: [] for number in range(SERVICES)})
        self.logs = Answers(taken={number: [] for number in range(SERVICES)})
        self._url = url
        self._headers = {"authorization": f"Bearer {key}", "content-type": "application/x-protobuf"}
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=send, args=(number,)) for number in range(SERVICES)
            for send in (self._send_metrics, self._send_logs)
        ]  # fmt: skip

    def __enter__(self) -> Senders:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def count(self) -> int:
        """Samples and lines that were acknowledged until now."""
        return sum(len(one) for kind in (self.metrics, self.logs) for one in kind.taken.values())

    def _send_metrics(self, number: int) -> None:
        def request(counts: range, now_ns: int) -> bytes:
            built = ExportMetricsServiceRequest()
            resource = built.resource_metrics.add()
            resource.resource.attributes.add(key="service.name").value.string_value = f"cabled-{number}"
            points = resource.scope_metrics.add().metrics.add(name="cabled_count").gauge.data_points
            for place, count in enumerate(counts):
                points.add(time_unix_nano=now_ns + place * 1_000_000, as_double=float(number * _SENDER + count))
            return built.SerializeToString()

        self._send("/v1/metrics", self.metrics, number, POINTS, request)

    def _send_logs(self, number: int) -> None:
        def request(counts: range, now_ns: int) -> bytes:
            built = ExportLogsServiceRequest()
            resource = built.resource_logs.add()
            resource.resource.attributes.add(key="service.name").value.string_value = f"cabled-{number}"
            lines = resource.scope_logs.add().log_records
            for place, count in enumerate(counts):
                lines.add(time_unix_nano=now_ns + place).body.string_value = str(number * _SENDER + count)
            return built.SerializeToString()

        self._send("/v1/logs", self.logs, number, LINES, request)

    def _send(self, path: str, answers: Answers, number: int, size: int, request: Any) -> None:
        with httpx2.Client(headers=self._headers, timeout=30.0, trust_env=False) as client:
            for first in itertools.count(1, size):
                counts = range(first, first + size)
                body = request(counts, time.time_ns())
                while not self._stopping.is_set():
                    began = time.monotonic()
                    try:
                        answer = client.post(f"{self._url}{path}", content=body)
                        said = "" if answer.is_success else f"{answer.status_code} {answer.text[:200]}"
                    except httpx2.HTTPError as error:
                        said = repr(error)
                    answers.slowest_s = max(answers.slowest_s, time.monotonic() - began)
                    if not said:
                        answers.taken[number].extend(counts)
                        break
                    answers.refused.append(said)
                if self._stopping.wait(EVERY_S):
                    return


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """The role, running."""

    servers: str
    """Of Kafka."""
    url: str
    health: str
    key: str
    spool: Path

    def ready(self) -> dict[str, Any]:
        answer: dict[str, Any] = httpx2.get(f"{self.health}/readyz", timeout=10.0, trust_env=False).json()
        return answer

    def gauges(self) -> Mapping[str, float]:
        """Numbers about the spool, as Prometheus reads them."""
        text = httpx2.get(f"{self.health}/metrics", timeout=10.0, trust_env=False).text
        return {
            line.split()[0].removeprefix("headspring_spool_"): float(line.split()[1])
            for line in text.splitlines() if line.startswith("headspring_spool_")
        }  # fmt: skip

    def on_disk(self) -> int:
        return sum(file.stat().st_size for file in self.spool.rglob("*") if file.is_file())


@contextmanager
def collector(
    folder: Path, kafka: str, database: Postgres, *, host: str = "127.0.0.1",
    there: Callable[[Sequence[str]], list[str]] = list,
) -> Iterator[Collector]:  # fmt: skip
    """
    Args:
        kafka: Its servers.
        host: Address that the role listens at; PostgreSQL is asked at the database's `host`.
        there: Makes of a command line one that starts the same program elsewhere.
    """
    place = stack.configure(folder, {**settings_of(kafka, database), "host": host})
    (folder / "secrets").mkdir()
    keys = KeyStore(database.url, secrets=folder / "secrets", clock=SystemClock())
    key = "hsk_" + secrets.token_urlsafe(32)
    keys.bootstrap(key)
    keys.close()
    health, data = free_port(), folder / "data"
    argv = [
        str(Path(sys.executable).with_name("headspring")), "run", "ingestion", "--config", place["config"],
        "--data", str(data), "--health-port", str(health),
    ]  # fmt: skip
    door = f"http://{host}"
    with running(there(argv), health=f"{door}:{health}/readyz", log=folder / "ingestion.log", timeout_s=120.0):
        yield Collector(
            servers=kafka, url=f"{door}:{place['otlp'].rpartition(':')[2]}", health=f"{door}:{health}", key=key,
            spool=data / "spool",
        )  # fmt: skip


def settings_of(kafka: str, database: Postgres) -> dict[str, Any]:
    """The settings file's part about servers."""
    url = sa.make_url(database.url).set(host=database.host)
    return {
        "kafka": kafka, "replication": 1, "partitions": 4, "postgres_password": database.password,
        "postgres_url": url.set(password=None).render_as_string(),
    }  # fmt: skip


def check_topics(servers: str, senders: Senders) -> list[int]:
    """Everything that was acknowledged is on its topic, in the order in which each sender sent it, and nothing else.

    Returns:
        Of records that are there twice, to the byte, when they were received, unix ns: delivery is at least once, and
        a record whose acknowledgement was lost is written again.
    """
    repeated: list[int] = []
    for topic, kind, read in ((METRICS.name, senders.metrics, _samples), (LOGS.name, senders.logs, _lines)):
        first, again = repeats(list(contents(servers, topic)))
        found: dict[int, list[int]] = {number: [] for number in range(SERVICES)}
        for record in first:
            for value in read(record)[1]:
                found[value // _SENDER].append(value % _SENDER)
        assert found == kind.taken, f"{topic}: a record is lost, twice or out of order"
        repeated += [read(record)[0] for record in again]
    return repeated


def _samples(record: Held) -> tuple[int, list[int]]:
    """When it was received, unix ns, and what it counts."""
    batch = codec.decode(MetricBatch, record.value)
    return batch.received_ns, [int(value) for value in batch.value]


def _lines(record: Held) -> tuple[int, list[int]]:
    """As `_samples`."""
    batch = codec.decode(LogBatch, record.value)
    return batch.received_ns, [int(line.body) for line in batch.records]
