"""Metric points decoded per CPU second: the compiled scanner against the plain reference.

Run: `python tests/benchmarks/bench_intake.py` from the repository root; prints one JSON object.
All series are known, as they are all the time but for the first minute.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import cramjam
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from headspring.ingestion.admit.limits import Limits
from headspring.ingestion.admit.registry import SeriesRegistry
from headspring.ingestion.testing import KEY, NOW_NS, attributes
from headspring.ingestion.wire.decode import Decoded, MetricDecoder
from headspring.ingestion.wire.prompb import WriteRequest
from headspring.ingestion.wire.scanner import WireScanner

_SECONDS = 2.0


def otlp_body(resources: int, metrics: int, points: int, labels: int) -> bytes:
    request = ExportMetricsServiceRequest()
    for resource in range(resources):
        resource_metrics = request.resource_metrics.add()
        attributes(resource_metrics.resource.attributes, service__name=f"service-{resource}", service__version="1.4.2")
        scope_metrics = resource_metrics.scope_metrics.add()
        for number in range(metrics):
            metric = scope_metrics.metrics.add(name=f"app.metric.number.{number}", unit="s")
            for index in range(points):
                point = metric.gauge.data_points.add(time_unix_nano=NOW_NS, as_double=index * 0.5)
                attributes(point.attributes, **{f"label{n}": f"value-{index}-{n}" for n in range(labels)})
    data: bytes = request.SerializeToString()
    return data


def histogram_body() -> bytes:
    request = ExportMetricsServiceRequest()
    resource_metrics = request.resource_metrics.add()
    attributes(resource_metrics.resource.attributes, service__name="service")
    metric: Any = resource_metrics.scope_metrics.add().metrics.add(name="http.server.request.duration", unit="s")
    metric.histogram.aggregation_temporality = 2
    for index in range(500):
        point = metric.histogram.data_points.add(
            time_unix_nano=NOW_NS, count=9, sum=1.5, bucket_counts=[1] * 15, explicit_bounds=[0.1] * 14
        )
        attributes(point.attributes, http__route=f"/r/{index}", http__method="GET")
    data: bytes = request.SerializeToString()
    return data


def write_body() -> bytes:
    request = WriteRequest()
    for index in range(2000):
        series = request.timeseries.add()
        series.labels.add(name="__name__", value="http_requests_total")
        for number in range(9):
            series.labels.add(name=f"label_{number}", value=f"value-{index}-{number}")
        series.samples.add(value=float(index), timestamp=NOW_NS // 10**6)
    data: bytes = request.SerializeToString()
    return data


def rate(decode: Callable[[], Decoded]) -> float:
    """Points per CPU second of this process, one thread."""
    decode().admission.commit()
    points, start = 0, time.process_time()
    while time.process_time() - start < _SECONDS:
        points += len(decode().columns)
    return round(points / (time.process_time() - start))


def _commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def main() -> None:
    limits = Limits()
    bodies: dict[str, tuple[str, bytes]] = {
        "otlp dense: 1 resource x 20 metrics x 50 points x 4 attributes": ("otlp", otlp_body(1, 20, 50, 4)),
        "otlp typical: 10 resources x 40 metrics x 4 points x 2 attributes": ("otlp", otlp_body(10, 40, 4, 2)),
        "otlp histograms: 500 points, two samples each": ("otlp", histogram_body()),
        "remote write: 2000 series x 10 labels, with snappy": ("write", write_body()),
    }
    results: dict[str, Any] = {}
    for name, (protocol, body) in bodies.items():
        compressed = bytes(cramjam.snappy.compress_raw(body))
        row: dict[str, float] = {"bytes": len(body)}
        for path in ("scanner", "reference"):
            scanner = WireScanner(limits) if path == "scanner" else None
            decoder = MetricDecoder(SeriesRegistry(key=KEY, limits=limits), limits, scanner)

            def decode(decoder: MetricDecoder = decoder, body: bytes = body, packed: bytes = compressed) -> Decoded:
                if protocol == "otlp":  # noqa: B023 — called before the loop goes on
                    return decoder.otlp("default", body, NOW_NS)
                return decoder.remote_write("default", bytes(cramjam.snappy.decompress_raw(packed)), NOW_NS)

            row[f"{path}_points_per_cpu_s"] = rate(decode)
        row["ratio"] = round(row["scanner_points_per_cpu_s"] / row["reference_points_per_cpu_s"], 1)
        results[name] = row
    about = {
        "command": "python tests/benchmarks/bench_intake.py",
        "commit": _commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "unit": "points per CPU second, one core",
    }
    json.dump({**about, "results": results}, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
