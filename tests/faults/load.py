"""Load whose every acknowledgement is remembered: samples with values of their own, alerts, spans of chains."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from tests.faults.chains import Chain
from tests.servers.headspring import Headspring

SAMPLES = "faults_ledger"
"""The metric whose samples are kept count of."""
_PROTOBUF = {"content-type": "application/x-protobuf"}
_POINTS = 20
"""Samples in a request."""
_UNSENT = 20
"""Exports of spans that are kept for another try while the platform is away; an exporter's queue has an end too."""


@dataclass
class Sent:
    """What was sent, and what of it the platform said it has."""

    samples: dict[str, dict[int, float]] = field(default_factory=dict)
    """Acknowledged, by service: time in milliseconds to value."""
    unanswered: dict[str, dict[int, float]] = field(default_factory=dict)
    """Sent and not acknowledged: may be there."""
    alerts: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Acknowledged, by name: summary and service."""
    refused: list[str] = field(default_factory=list)
    """Answers that were neither an acknowledgement nor 503."""


def webhook(name: str, alerts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The body of an Alertmanager webhook, version 4."""
    return {
        "version": "4", "groupKey": name, "status": "firing", "receiver": "faults", "groupLabels": {},
        "commonLabels": {}, "commonAnnotations": {}, "externalURL": "", "alerts": list(alerts),
    }  # fmt: skip


def alert_of(name: str, service: str, summary: str, starts: datetime, *, over: bool = False) -> dict[str, Any]:
    """One alert of a webhook; its name is its fingerprint too."""
    ends = datetime.now(UTC) if over else starts + timedelta(hours=1)
    return {
        "status": "resolved" if over else "firing", "fingerprint": name.lower(),
        "labels": {"alertname": name, "service": service, "severity": "warning"},
        "annotations": {"summary": summary}, "startsAt": starts.isoformat(), "endsAt": ends.isoformat(),
    }  # fmt: skip


class Load:
    """Threads that send until told to stop; a platform that is down costs them nothing but the request."""

    def __init__(self, site: Headspring, *, chains: Sequence[Chain], senders: int = 3) -> None:
        names = [f"ledger-{number}" for number in range(senders)]
        self.sent = Sent(samples={name: {} for name in names}, unanswered={name: {} for name in names})
        self._site = site
        self._chains = chains
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._samples, args=(name,)) for name in names]
        self._threads += [threading.Thread(target=self._alerts), threading.Thread(target=self._spans)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Harmless when it has stopped, or never started."""
        self._stopping.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _post(self, client: httpx2.Client, url: str, **body: Any) -> bool:
        try:
            answer = client.post(url, **body)
        except httpx2.HTTPError:
            self._stopping.wait(0.1)  # down, or killed before it answered: nothing was acknowledged
            return False
        if not answer.is_success and answer.status_code != 503:
            self.sent.refused.append(f"{answer.status_code} {answer.text[:200]}")
        return answer.is_success

    def _client(self) -> httpx2.Client:
        return httpx2.Client(headers={"authorization": f"Bearer {self._site.api_key}"}, timeout=10.0, trust_env=False)

    def _samples(self, service: str) -> None:
        with self._client() as client:
            for number in itertools.count(1):
                request = ExportMetricsServiceRequest()
                resource = request.resource_metrics.add()
                resource.resource.attributes.add(key="service.name").value.string_value = service
                points = resource.scope_metrics.add().metrics.add(name=SAMPLES).gauge.data_points
                now_ms = time.time_ns() // 1_000_000
                sent = {now_ms + place: number * 1000.0 + place for place in range(_POINTS)}
                for at_ms, value in sent.items():
                    points.add(time_unix_nano=at_ms * 1_000_000, as_double=value)
                content = request.SerializeToString()
                taken = self._post(client, f"{self._site.otlp_url}/v1/metrics", content=content, headers=_PROTOBUF)
                (self.sent.samples if taken else self.sent.unanswered)[service].update(sent)
                if self._stopping.wait(0.05):  # longer than the samples of a request reach into the future
                    return

    def _alerts(self) -> None:
        with self._client() as client:
            for number in itertools.count(1):
                name, service, summary = f"Ledger{number:05d}", f"shelf-{number % 5}", f"entry {number} of the ledger"
                body = webhook(name, [alert_of(name, service, summary, datetime.now(UTC))])
                if self._post(client, f"{self._site.url}/api/v1/alerts/ingest", json=body):
                    self.sent.alerts[name] = (summary, service)
                if self._stopping.wait(0.25):
                    return

    def _spans(self) -> None:
        unsent: list[bytes] = []
        with self._client() as client:
            while not self._stopping.wait(0.5):
                unsent = [*unsent, *(chain.export(time.time_ns()) for chain in self._chains)][-_UNSENT:]
                while unsent and self._post(
                    client, f"{self._site.otlp_url}/v1/traces", content=unsent[0], headers=_PROTOBUF
                ):
                    unsent.pop(0)
