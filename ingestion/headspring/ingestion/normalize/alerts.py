"""Alerts from elsewhere to our one form: Alertmanager and Grafana webhooks, plain JSON, Prometheus' v2 API.

Sources: prometheus/alertmanager docs/configuration.md (webhook) and docs/alerts_api.md; Grafana's webhook
notifier. Unknown fields are ignored, as these contracts want it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headspring.ingestion.admit.json_text import kind_of
from headspring.ingestion.admit.limits import Limits
from headspring.ingestion.normalize import entities
from headspring.ingestion.normalize.values import cut, time_ns
from headspring.proto.detection import Alert, AlertStatus, Severity
from headspring.proto.errors import ContractError, LimitExceeded
from headspring.proto.ids import alert_id, entity_id

_SEVERITIES = {
    Severity.CRITICAL: ("critical", "crit", "page", "emergency", "fatal", "disaster", "p1", "sev1", "1"),
    Severity.ERROR: ("error", "err", "major", "high", "p2", "sev2", "2"),
    Severity.WARNING: ("warning", "warn", "minor", "average", "medium", "p3", "sev3", "3"),
    Severity.INFO: ("info", "information", "informational", "notice", "low", "none", "debug", "p4", "p5", "sev4",
                    "sev5", "4", "5"),
}  # fmt: skip
_SEVERITY_OF = {name: severity for severity, names in _SEVERITIES.items() for name in names}
_SEVERITY_LABELS = ("severity", "priority", "level")
_FNV_OFFSET = 14695981039346656037
_FNV_PRIME = 1099511628211
_U64 = 2**64 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedAlert:
    """One alert of a payload before its episode is known."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    status: AlertStatus
    starts_ns: int
    """0 = the sender did not say."""
    ends_ns: int
    fingerprint: str
    source: str


def alertmanager_alerts(payload: Any, limits: Limits, source: str = "") -> list[ReceivedAlert]:
    """Alerts of an Alertmanager v4 or Grafana webhook body, or of a plain `{"alerts": [...]}`.

    Raises:
        ContractError: another shape; the message names the alert and the field.
        LimitExceeded: more alerts than `max_alerts`.
    """
    if isinstance(payload, list):
        payload = {"alerts": payload}
    if not isinstance(payload, Mapping) or not isinstance(payload.get("alerts"), list):
        raise ContractError(
            f"got {kind_of(payload)}, "
            'wanted a JSON object with a list "alerts" (Alertmanager webhook version 4 or plain)'
        )
    if not source:
        source = "grafana" if "orgId" in payload else "alertmanager" if "groupKey" in payload else "webhook"
    _check_count(payload["alerts"], limits)
    shared = _shared_annotations(payload)
    return [
        _received(item, index, source, limits, shared, payload.get("status"))
        for index, item in enumerate(payload["alerts"])
    ]


def prometheus_alerts(payload: Any, limits: Limits, now_ns: int) -> list[ReceivedAlert]:
    """Alerts of Alertmanager's own API v2, as Prometheus posts them: firing until `endsAt` has passed."""
    if not isinstance(payload, list):
        raise ContractError(f"wanted a JSON array of alerts (Alertmanager API v2), got {kind_of(payload)}")
    _check_count(payload, limits)
    received = []
    for index, item in enumerate(payload):
        ends_ns = time_ns(item.get("endsAt"), f"alerts[{index}].endsAt") if isinstance(item, Mapping) else 0
        status = "resolved" if 0 < ends_ns <= now_ns else "firing"
        received.append(_received(item, index, "prometheus", limits, {}, status, own_status=False))
    return received


def to_alert(received: ReceivedAlert, *, tenant: str, starts_ns: int, now_ns: int) -> Alert:
    """The episode that started at `starts_ns` in our form."""
    labels = received.labels
    name = labels.get("alertname") or labels.get("name") or labels.get("rulename") or "alert"
    resolved = received.status is AlertStatus.RESOLVED
    entity = entities.of_labels({key: value for key, value in labels.items() if key != "alertname"})
    return Alert(
        alert_id=alert_id(tenant, received.fingerprint, starts_ns),
        tenant=tenant,
        fingerprint=received.fingerprint,
        entity=entity or entity_id("unknown", name),
        name=name,
        severity=severity_of(labels),
        status=received.status,
        starts_ns=starts_ns,
        ends_ns=(received.ends_ns or now_ns) if resolved else 0,
        updated_ns=now_ns,
        source=received.source,
        summary=next(
            (
                received.annotations[key]
                for key in ("summary", "description", "message")
                if received.annotations.get(key)
            ),
            name,
        ),
        labels=labels,
        annotations=received.annotations,
        metric=labels.get("metric", ""),
    )


def severity_of(labels: Mapping[str, str]) -> Severity:
    """Severity by label; WARNING where none is known, so that nothing unknown is hidden.

    >>> severity_of({"severity": "page"}).value, severity_of({}).value
    ('critical', 'warning')
    """
    for name in _SEVERITY_LABELS:
        found = _SEVERITY_OF.get(labels.get(name, "").strip().lower())
        if found is not None:
            return found
    return Severity.WARNING


def label_set_fingerprint(labels: Mapping[str, str]) -> str:
    """The fingerprint that Alertmanager computes for a label set, so that the same alert coming by its
    webhook and straight from Prometheus is one (prometheus/common model/signature.go: FNV-1a, 64 bits)."""
    value = _FNV_OFFSET
    for name in sorted(labels):
        for byte in (*name.encode("utf-8", "replace"), 0xFF, *labels[name].encode("utf-8", "replace"), 0xFF):
            value = ((value ^ byte) * _FNV_PRIME) & _U64
    return f"{value:016x}"


def _check_count(items: list[Any], limits: Limits) -> None:
    if len(items) > limits.max_alerts:
        raise LimitExceeded(f"{len(items)} alerts in one request, the limit is {limits.max_alerts}")


def _shared_annotations(payload: Mapping[str, Any]) -> dict[str, str]:
    """What belongs to the whole notification and a person should see on each alert."""
    shared = {}
    truncated = payload.get("truncatedAlerts")
    if isinstance(truncated, int) and not isinstance(truncated, bool) and truncated > 0:
        shared["truncatedAlerts"] = str(truncated)
    for name in ("externalURL", "groupKey"):
        if isinstance(payload.get(name), str) and payload[name]:
            shared[name] = payload[name]
    return shared


def _received(
    item: Any,
    index: int,
    source: str,
    limits: Limits,
    shared: Mapping[str, str],
    group_status: Any,
    *,
    own_status: bool = True,
) -> ReceivedAlert:
    where = f"alerts[{index}]"
    if not isinstance(item, Mapping):
        raise ContractError(f"{where} is not a JSON object")
    labels = _texts(item.get("labels"), f"{where}.labels", limits)
    if not item.get("labels") and isinstance(item.get("name"), str):
        # The plain form may name things without labels.
        labels = {
            key: cut(item[key], limits.max_label_bytes)
            for key in ("service", "entity", "namespace", "severity", "instance")
            if isinstance(item.get(key), str)
        } | {"alertname": cut(item["name"], limits.max_label_bytes)}
    if not labels:
        raise ContractError(f"{where}.labels is empty; an alert needs at least alertname")
    if len(labels) > limits.max_labels:
        raise LimitExceeded(f"{where} has {len(labels)} labels, the limit is {limits.max_labels}")
    annotations = dict(shared) | _texts(item.get("annotations"), f"{where}.annotations", limits)
    for name in ("generatorURL", "silenceURL", "dashboardURL", "panelURL", "valueString", "summary"):
        if isinstance(item.get(name), str) and item[name]:
            annotations.setdefault(name, cut(item[name], limits.max_text_bytes))
    status = (item.get("status") if own_status else None) or group_status or "firing"
    if isinstance(status, Mapping):  # API v2 reads back {"state": "active"}
        status = "firing"
    if status not in ("firing", "resolved"):
        raise ContractError(f"{where}.status is {str(status)[:40]!r}, wanted firing or resolved")
    stated = item.get("fingerprint")
    return ReceivedAlert(
        labels=labels,
        annotations=annotations,
        status=AlertStatus(status),
        starts_ns=time_ns(item.get("startsAt"), f"{where}.startsAt"),
        ends_ns=time_ns(item.get("endsAt"), f"{where}.endsAt"),
        fingerprint=cut(stated, 128) if isinstance(stated, str) and stated else label_set_fingerprint(labels),
        source=source,
    )


def _texts(value: Any, where: str, limits: Limits) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ContractError(f"{where} is not a JSON object")
    return {
        cut(str(key), 512): cut(
            item if isinstance(item, str) else "" if item is None else str(item), limits.max_text_bytes
        )
        for key, item in value.items()
    }
