"""A fixed load of metrics for intake benchmarks, made and sent in a process of its own: `Sender`.

The same samples go out as OTLP over HTTP (plain or gzip) and as Prometheus remote write 1.0: an estate of 10 000
series in one request, ten labels each. In OTLP four of them are the resource's attributes and six the point's, ten
points a metric and ten metrics a resource, as SDKs and collectors group them.
"""

from __future__ import annotations

import gzip
import http.client
import multiprocessing
import statistics
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import Any, Self
from urllib.parse import urlsplit

import cramjam
import numpy as np
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from headspring.ingestion.wire.prompb import WriteRequest

RESOURCES, METRICS, POINTS = 100, 10, 10
SERIES = RESOURCES * METRICS * POINTS
"""Series, and samples, of one request."""
WAYS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "otlp": ("/v1/metrics", {"Content-Type": "application/x-protobuf"}),
    "otlp gzip": ("/v1/metrics", {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}),
    "remote write": (
        "/api/v1/write",
        {
            "Content-Type": "application/x-protobuf", "Content-Encoding": "snappy",
            "X-Prometheus-Remote-Write-Version": "0.1.0",
        },
    ),
}  # fmt: skip
"""How samples can be sent: path and headers."""
_GZIP_LEVEL = 6
"""Of gzip and zlib, and so of most exporters."""


def _resource(estate: int, number: int) -> dict[str, str]:
    return {
        "service.name": f"service-{number // 4}", "service.namespace": f"estate-{estate}",
        "service.instance.id": f"service-{number // 4}-{number % 4}", "host.name": f"node-{number % 17}.internal",
    }  # fmt: skip


def _point(number: int) -> dict[str, str]:
    return {
        "http.route": f"/api/items/{number}", "http.request.method": ("GET", "POST")[number % 2],
        "http.response.status_code": ("200", "404", "500")[number % 3], "network.protocol.version": "1.1",
        "availability.zone": f"zone-{number % 3}", "release": "2026.11.4",
    }  # fmt: skip


@cache
def _otlp(estate: int) -> tuple[ExportMetricsServiceRequest, list[Any]]:
    """The request of an estate and its data points, to be given times and values."""
    request, points = ExportMetricsServiceRequest(), []
    for number in range(RESOURCES):
        resource = request.resource_metrics.add()
        for name, value in _resource(estate, number).items():
            resource.resource.attributes.add(key=name).value.string_value = value
        scope = resource.scope_metrics.add()
        for metric in range(METRICS):
            gauge = scope.metrics.add(name=f"app.work.queue_{metric}").gauge
            for place in range(POINTS):
                point = gauge.data_points.add()
                for name, value in _point(place).items():
                    point.attributes.add(key=name).value.string_value = value
                points.append(point)
    return request, points


@cache
def _remote_write(estate: int) -> tuple[WriteRequest, list[Any]]:
    """As `_otlp`; labels in order of their names, as the specification wants them."""
    request, samples = WriteRequest(), []
    for number in range(RESOURCES):
        for metric in range(METRICS):
            for place in range(POINTS):
                labels = {**_resource(estate, number), **_point(place)}
                named = {name.replace(".", "_"): value for name, value in labels.items()}
                series = request.timeseries.add()
                for name, value in sorted({"__name__": f"app_work_queue_{metric}", **named}.items()):
                    series.labels.add(name=name, value=value)
                samples.append(series.samples.add())
    return request, samples


def body(way: str, estate: int, time_ms: int) -> bytes:
    """A request with one sample of each series of an estate, as it goes over the network."""
    values = np.random.default_rng((estate, time_ms)).normal(100.0, 5.0, SERIES).round(2).tolist()
    if way == "remote write":
        request, samples = _remote_write(estate)
        for sample, value in zip(samples, values, strict=True):
            sample.timestamp, sample.value = time_ms, value
        return bytes(cramjam.snappy.compress_raw(request.SerializeToString()))
    export, points = _otlp(estate)
    for point, value in zip(points, values, strict=True):
        point.time_unix_nano, point.as_double = time_ms * 1_000_000, value
    data: bytes = export.SerializeToString()
    return gzip.compress(data, _GZIP_LEVEL) if way == "otlp gzip" else data


_prepared: list[bytes] = []


def _prepare(way: str, count: int, estates: int, start_ms: int, step_ms: int) -> int:
    _prepared[:] = [body(way, place % estates, start_ms + place // estates * step_ms) for place in range(count)]
    return sum(map(len, _prepared))


def _send(url: str, way: str, key: str, connections: int, every_s: float) -> dict[str, Any]:
    place = urlsplit(url)
    path, headers = WAYS[way]
    waiting = iter(enumerate(_prepared))
    lock, answers, seconds = threading.Lock(), Counter[int](), list[float]()
    start = time.monotonic()

    def work() -> None:
        connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=60)
        while True:
            with lock:
                number, data = next(waiting, (-1, b""))
            if number < 0:
                connection.close()
                return
            time.sleep(max(0.0, start + number * every_s - time.monotonic()))
            began = time.monotonic()
            connection.request("POST", path, data, {**headers, "Authorization": f"Bearer {key}"})
            answer = connection.getresponse()
            answer.read()
            with lock:
                answers[answer.status] += 1
                seconds.append(time.monotonic() - began)

    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "wall_s": time.monotonic() - start,
        "refused": sum(count for status, count in answers.items() if status not in (200, 204)),
        "acknowledged_p50_s": statistics.median(seconds),
        "acknowledged_max_s": max(seconds),
    }


class Sender:
    """The process that makes and sends bodies, so that its CPU time is nobody else's."""

    def __enter__(self) -> Self:
        self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def prepare(self, way: str, *, count: int, estates: int, start_ms: int, step_ms: int) -> int:
        """Makes `count` bodies, estate after estate, the time moved on after each round of estates; their bytes."""
        return self._pool.submit(_prepare, way, count, estates, start_ms, step_ms).result()

    def send(self, url: str, way: str, *, key: str = "", connections: int = 2, every_s: float = 0.0) -> dict[str, Any]:
        """Sends what was prepared, as fast as it is answered or one body in `every_s`.

        Returns:
            `wall_s`, `refused` requests, `acknowledged_p50_s`, `acknowledged_max_s`.
        """
        return self._pool.submit(_send, url, way, key, connections, every_s).result()
