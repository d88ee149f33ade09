"""Headspring's own metrics in Prometheus' text format: what each stage did, and what the intake took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headspring.gateway.backends import BackendState
from headspring.gateway.services import Services

_STAGE_METRICS = (
    ("records_in", "headspring_stage_records_in_total", "counter", "Records a stage took."),
    ("records_out", "headspring_stage_records_out_total", "counter", "Records a stage wrote."),
    ("errors", "headspring_stage_errors_total", "counter", "Failed calls of a stage, retries included."),
    ("dead_letters", "headspring_stage_dead_letters_total", "counter", "Records no stage could use."),
    ("restarts", "headspring_stage_restarts_total", "counter", "Times a stage was started again."),
    ("lag", "headspring_stage_lag_records", "gauge", "Records waiting for a stage."),
    ("last_batch_s", "headspring_stage_last_batch_seconds", "gauge", "Time the last batch took."),
)


def exposition(services: Services) -> str:
    """All metrics of an installation, or of its gateway, as text."""
    return text_of(services.stage_health(), services.intake.counters, services.backends())


def text_of(
    health: Mapping[str, Any], counters: Mapping[str, int], backends: Mapping[str, BackendState], **gauges: float
) -> str:
    """Metrics of one process as text.

    Args:
        health: `StageHealth` by stage.
        counters: By name, with labels or without.
        backends: By product.
        gauges: By name.
    """
    lines: list[str] = []
    for field, name, kind, text in _STAGE_METRICS:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines += [f'{name}{{stage="{stage}"}} {getattr(state, field)}' for stage, state in sorted(health.items())]
    for counter, value in sorted(counters.items()):
        family = counter.partition("{")[0]
        declared = f"# TYPE {family} counter"
        if declared not in lines:
            lines.append(declared)
        lines.append(f"{counter} {value}")
    if backends:
        lines += ["# HELP headspring_backend_up Whether a server answers.", "# TYPE headspring_backend_up gauge"]
        lines += [f'headspring_backend_up{{backend="{name}"}} {int(state.up)}' for name, state in backends.items()]
    for name, gauge in gauges.items():
        lines += [f"# TYPE {name} gauge", f"{name} {gauge}"]
    return "\n".join(lines) + "\n"
