"""Changes to our one form: plain JSON, CloudEvents in their three modes, CDEvents about services.

Sources: cloudevents/spec 1.0.2 HTTP binding; cdevents/spec (`dev.cdevents.service.*`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from headspring.ingestion.admit.json_text import kind_of
from headspring.ingestion.admit.limits import Limits
from headspring.ingestion.normalize import entities
from headspring.ingestion.normalize.values import cut, time_ns
from headspring.proto.errors import ContractError, LimitExceeded
from headspring.proto.ids import derived_id, entity_id
from headspring.proto.telemetry import Change, ChangeKind

_CDEVENT = re.compile(r"^dev\.cdevents\.(?P<subject>[a-z]+)\.(?P<predicate>[a-z]+)\.\d")
_CDEVENT_KINDS = {
    "deployed": ChangeKind.DEPLOY,
    "upgraded": ChangeKind.DEPLOY,
    "published": ChangeKind.DEPLOY,
    "removed": ChangeKind.DEPLOY,
    "rolledback": ChangeKind.ROLLBACK,
}
_FIELDS = frozenset(
    {
        "id", "entity", "service", "namespace", "host", "kind", "time", "summary", "version", "previous_version",
        "source", "attributes",
    }
)  # fmt: skip
_WORDS = (
    ("rollback", ChangeKind.ROLLBACK), ("rolledback", ChangeKind.ROLLBACK), ("deploy", ChangeKind.DEPLOY),
    ("release", ChangeKind.DEPLOY), ("flag", ChangeKind.FLAG), ("config", ChangeKind.CONFIG),
    ("scal", ChangeKind.SCALE), ("commit", ChangeKind.COMMIT), ("push", ChangeKind.COMMIT),
)  # fmt: skip
"""What a CloudEvent's type must hold for its kind; the first that fits."""


def parse_changes(
    payload: Any, headers: Mapping[str, str], *, tenant: str, limits: Limits, now_ns: int
) -> list[Change]:
    """Changes of one request; `headers` are lower-case.

    Raises:
        ContractError: another shape, an unknown field of the plain form, or a CDEvent not about a service.
        LimitExceeded: more than `max_alerts` changes.
    """
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    if "ce-specversion" in headers:
        event = {name.removeprefix("ce-"): value for name, value in headers.items() if name.startswith("ce-")}
        return [_cloud_event({**event, "data": payload}, tenant, limits, now_ns)]
    if media == "application/cloudevents-batch+json":
        return [_cloud_event(item, tenant, limits, now_ns) for item in _items(payload, limits)]
    if media == "application/cloudevents+json" or (isinstance(payload, Mapping) and "specversion" in payload):
        return [_cloud_event(payload, tenant, limits, now_ns)]
    if isinstance(payload, Mapping) and isinstance(payload.get("changes"), list):
        payload = payload["changes"]
    items = _items(payload, limits) if isinstance(payload, list) else [payload]
    return [_plain(item, tenant, limits, now_ns) for item in items]


def _plain(item: Any, tenant: str, limits: Limits, now_ns: int) -> Change:
    if not isinstance(item, Mapping):
        raise ContractError(f"a change is not a JSON object, got {kind_of(item)}")
    unknown = sorted(set(map(str, item)) - _FIELDS)
    if unknown:
        raise ContractError(f"unknown field {unknown[0][:40]!r} in a change; known are {', '.join(sorted(_FIELDS))}")
    text = {name: _text(item, name, limits) for name in _FIELDS - {"attributes", "time"}}
    attributes = _attributes(item.get("attributes"), limits)
    entity = entities.of_labels({name: text[name] for name in ("entity", "service", "namespace", "host") if text[name]})
    if not entity:
        raise ContractError('a change needs "service" (or "entity" as kind:namespace/name)')
    stated = time_ns(item.get("time"), "time")
    when = stated or now_ns
    kind = _kind(text["kind"])
    return _change(
        tenant=tenant, entity=entity, kind=kind, when=when, text=text, attributes=attributes,
        change_id=text["id"] and derived_id("ch", stated, tenant, text["source"], text["id"]),
    )  # fmt: skip


def _cloud_event(event: Any, tenant: str, limits: Limits, now_ns: int) -> Change:
    if not isinstance(event, Mapping):
        raise ContractError("a CloudEvent is not a JSON object")
    for name in ("id", "source", "specversion", "type"):
        if not isinstance(event.get(name), str) or not event[name]:
            raise ContractError(f"CloudEvent without {name}")
    data = event.get("data")
    data = data if isinstance(data, Mapping) else {}
    when = time_ns(event.get("time"), "time") or now_ns
    change_id = derived_id("ch", 0, tenant, event["source"], event["id"])
    match = _CDEVENT.match(event["type"])
    if match is not None:
        if match["subject"] != "service" or match["predicate"] not in _CDEVENT_KINDS:
            raise ContractError(f"CDEvent {event['type'][:80]!r} is not about a service's change")
        return _cd_event(event, data, match["predicate"], tenant, when, change_id, limits)
    text = {name: _text(data, name, limits) for name in ("summary", "version", "previous_version", "service", "entity",
                                                         "namespace", "host")}  # fmt: skip
    about = {name: text[name] for name in ("entity", "service", "namespace", "host") if text[name]}
    subject = event.get("subject")
    if not (about.keys() & {"entity", "service", "host"}) and isinstance(subject, str) and subject.strip():
        about["service"] = subject
    lowered = event["type"].lower()
    kind = next((kind for word, kind in _WORDS if word in lowered), ChangeKind.UNSPECIFIED)
    text |= {"source": cut(event["source"], limits.max_label_bytes), "summary": text["summary"] or event["type"]}
    entity = entities.of_labels(about)
    if not entity:
        raise ContractError("CloudEvent names neither a subject nor data.service")
    return _change(
        tenant=tenant, entity=entity, kind=kind, when=when, text=text,
        attributes=_attributes(data.get("attributes"), limits), change_id=change_id,
    )  # fmt: skip


def _cd_event(
    event: Mapping[str, Any],
    data: Mapping[str, Any],
    predicate: str,
    tenant: str,
    when: int,
    change_id: str,
    limits: Limits,
) -> Change:
    subject = data.get("subject")
    subject = subject if isinstance(subject, Mapping) else {}
    content = subject.get("content")
    content = content if isinstance(content, Mapping) else {}
    name = _text(subject, "id", limits).rstrip("/").rpartition("/")[2]
    if not name.strip():
        raise ContractError("CDEvent without subject.id")
    environment = content.get("environment")
    artifact = _text(content, "artifactId", limits)
    attributes = {"cdevents.type": event["type"], "artifact": artifact}
    if isinstance(environment, Mapping):
        attributes["deployment.environment.name"] = _text(environment, "id", limits)
    text = {
        "summary": f"{name} {predicate}" + (f": {artifact}" if artifact else ""),
        "version": _artifact_version(artifact),
        "source": cut(event["source"], limits.max_label_bytes),
    }
    return _change(
        tenant=tenant, entity=entity_id("service", name), kind=_CDEVENT_KINDS[predicate], when=when, text=text,
        attributes={key: value for key, value in attributes.items() if value}, change_id=change_id,
    )  # fmt: skip


def _artifact_version(artifact: str) -> str:
    """Version of a purl (`pkg:oci/name@version?…`) or an image (`name:tag`)."""
    plain = artifact.partition("?")[0]
    if "@" in plain:
        return plain.rpartition("@")[2]
    return plain.rpartition(":")[2] if ":" in plain.rpartition("/")[2] else ""


def _change(
    *, tenant: str, entity: str, kind: ChangeKind, when: int, text: Mapping[str, str], attributes: Mapping[str, str],
    change_id: str,
) -> Change:  # fmt: skip
    summary = text.get("summary") or " ".join(part for part in (kind.value, entity, text.get("version", "")) if part)
    return Change(
        # Without an id of the sender's, the same content at the same time is the same change.
        change_id=change_id
        or derived_id("ch", when, tenant, entity, kind.value, str(when), text.get("version", ""), summary),
        tenant=tenant,
        entity=entity,
        kind=kind,
        time_ns=when,
        summary=summary,
        version=text.get("version", ""),
        previous_version=text.get("previous_version", ""),
        source=text.get("source", ""),
        attributes=attributes,
    )


def _kind(text: str) -> ChangeKind:
    try:
        return ChangeKind(text.strip().lower() or ChangeKind.UNSPECIFIED)
    except ValueError:
        wanted = ", ".join(kind.value for kind in ChangeKind if kind is not ChangeKind.UNSPECIFIED)
        raise ContractError(f"kind is {text[:40]!r}, wanted one of {wanted}") from None


def _items(payload: Any, limits: Limits) -> list[Any]:
    if not isinstance(payload, list):
        raise ContractError("wanted a JSON array")
    if len(payload) > limits.max_alerts:
        raise LimitExceeded(f"{len(payload)} changes in one request, the limit is {limits.max_alerts}")
    return payload


def _text(item: Mapping[str, Any], name: str, limits: Limits) -> str:
    value = item.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ContractError(f"{name} is {type(value).__name__}, wanted text")
    return cut(value, limits.max_text_bytes)


def _attributes(value: Any, limits: Limits) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ContractError("attributes is not a JSON object")
    return {cut(str(key), 512): cut(str(item), limits.max_text_bytes) for key, item in value.items()}
