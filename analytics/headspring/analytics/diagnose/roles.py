"""What a metric is about, from the words of its name.

Names follow conventions (OpenTelemetry, Prometheus, RED): their words, not whole names, are looked at.
"""

from __future__ import annotations

import functools
import re

from headspring.analytics.diagnose.case import Role
from headspring.proto.semantics import SERVICE_SELF_TIME_MEAN

_SPLIT = re.compile(r"[^a-z0-9]+")
_LATENCY = {"latency", "duration", "elapsed", "rtt", "response", "responsetime"}
_ERRORS = {
    "error", "errors", "err", "fail", "failed", "failure", "failures", "5xx", "4xx", "exception", "exceptions", "panic",
    "panics", "timeout", "timeouts", "rejected", "dropped", "restarts", "oom", "faults", "unavailable",
}  # fmt: skip
_SUCCESS = {"availability", "success", "uptime", "up", "healthy"}
_TRAFFIC = {"request", "requests", "rps", "qps", "throughput", "calls", "hits", "traffic", "tps", "operations"}
_RESOURCE = {
    "cpu", "memory", "mem", "heap", "rss", "disk", "filesystem", "network", "io", "iops", "bytes", "threads", "fds",
    "connections", "pool", "queue", "depth", "gc", "load", "utilization", "usage", "saturation", "syscall", "throttled",
    "socket", "swap", "lag", "backlog",
}  # fmt: skip
_OUTBOUND = {"client", "outbound", "egress", "upstream"}
_SHARED = {"node", "host", "machine"}


@functools.lru_cache(maxsize=20_000)
def words(metric: str) -> frozenset[str]:
    """Lower-case words of a metric name."""
    return frozenset(_SPLIT.split(metric.lower()))


@functools.lru_cache(maxsize=20_000)
def role_of(metric: str) -> Role:
    """
    >>> role_of("service_error_ratio"), role_of("http_server_duration_seconds"), role_of("availability")
    (<Role.ERRORS: 'errors'>, <Role.LATENCY: 'latency'>, <Role.SUCCESS: 'success'>)
    """
    if metric == SERVICE_SELF_TIME_MEAN:
        return Role.SELF_TIME
    found = words(metric)
    for role, names in (
        (Role.SUCCESS, _SUCCESS),
        (Role.ERRORS, _ERRORS),
        (Role.LATENCY, _LATENCY),
        (Role.RESOURCE, _RESOURCE),
        (Role.TRAFFIC, _TRAFFIC),
    ):
        if found & names:
            return role
    return Role.OTHER


@functools.lru_cache(maxsize=20_000)
def is_outbound(metric: str) -> bool:
    """The metric is measured at the caller's end of its calls."""
    return bool(words(metric) & _OUTBOUND)


@functools.lru_cache(maxsize=20_000)
def is_shared(metric: str) -> bool:
    """The metric is about the machine beneath, which others share: weak evidence for any one of them."""
    return bool(words(metric) & _SHARED)


@functools.lru_cache(maxsize=20_000)
def is_demand(metric: str) -> bool:
    """The metric counts requests that come in, not what the entity does to answer them.

    >>> is_demand("service_request_rate"), is_demand("db_query_count_per_request")
    (True, False)
    """
    found = words(metric)
    inward = bool(found & {"requests", "rps", "qps"}) or ("request" in found and bool(found & {"rate", "count"}))
    return inward and not found & {"db", "query", "queries", "write", "writes", "log"}
