"""Names that several stages must spell alike: metrics that Headspring derives, labels it adds.

Derived metrics are ordinary series: they go through windows, detection and queries like any other.
"""

from __future__ import annotations

SERVICE_LATENCY_P95 = "service_latency_p95_seconds"
SERVICE_LATENCY_MEAN = "service_latency_mean_seconds"
SERVICE_SELF_TIME_MEAN = "service_self_time_mean_seconds"
"""Mean time a request spends in the service itself, its calls to others taken off."""
SERVICE_ERROR_RATIO = "service_error_ratio"
"""Share of server spans that failed, 0..1."""
SERVICE_REQUEST_RATE = "service_request_rate"
"""Server spans per second."""
EDGE_LATENCY_MEAN = "edge_latency_mean_seconds"
"""Mean duration of client spans from `caller` to `callee`."""
EDGE_ERROR_RATIO = "edge_error_ratio"
EDGE_REQUEST_RATE = "edge_request_rate"

DERIVED_METRICS: dict[str, str] = {
    SERVICE_LATENCY_P95: "s",
    SERVICE_LATENCY_MEAN: "s",
    SERVICE_SELF_TIME_MEAN: "s",
    SERVICE_ERROR_RATIO: "1",
    SERVICE_REQUEST_RATE: "1/s",
    EDGE_LATENCY_MEAN: "s",
    EDGE_ERROR_RATIO: "1",
    EDGE_REQUEST_RATE: "1/s",
}
"""Unit of each derived metric."""

LABEL_SERVICE = "service"
LABEL_CALLER = "caller"
LABEL_CALLEE = "callee"


def prometheus_name(name: str) -> str:
    """A metric name as PromQL can write it: OpenTelemetry's dots become underscores.

    >>> prometheus_name("http.server.duration")
    'http_server_duration'
    """
    text = "".join(char if char.isascii() and (char.isalnum() or char in "_:") else "_" for char in name)
    return "_" + text if text[:1].isdigit() else text
