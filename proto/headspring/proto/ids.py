"""Identity: entities, series, alerts, incidents.

An id that a retry can compute again makes the retry harmless, so everything that can be derived is
derived; only what nobody can recompute (a plan, a feedback) gets a time-ordered random id.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping

DEFAULT_TENANT = "default"
DEFAULT_NAMESPACE = "default"

ENTITY_KINDS = (
    "service", "instance", "host", "database", "queue", "cache", "gateway", "external", "zone", "unknown",
)  # fmt: skip

_ENTITY = re.compile(r"^(?P<kind>[a-z_]+):(?P<namespace>[^/\s]+)/(?P<name>\S.*)$")
_SAFE = re.compile(r"[^\w.\-:@]+", re.UNICODE)


def entity_id(kind: str, name: str, namespace: str = DEFAULT_NAMESPACE) -> str:
    """`kind:namespace/name`, the id of anything that telemetry can be about.

    Raises:
        ValueError: `kind` is not one of `ENTITY_KINDS`, or `name` is empty.

    >>> entity_id("service", "payment")
    'service:default/payment'
    """
    if kind not in ENTITY_KINDS:
        raise ValueError(f"entity kind {kind!r} is not one of {', '.join(ENTITY_KINDS)}")
    name = name.strip()
    if not name:
        raise ValueError("an entity needs a name, got an empty one")
    return f"{kind}:{_SAFE.sub('_', namespace.strip()) or DEFAULT_NAMESPACE}/{name}"


def split_entity(entity: str) -> tuple[str, str, str]:
    """Kind, namespace and name of an entity id.

    Raises:
        ValueError: it is not of the form `kind:namespace/name`.

    >>> split_entity("service:default/payment")
    ('service', 'default', 'payment')
    """
    match = _ENTITY.match(entity)
    if match is None:
        raise ValueError(f"{entity!r} is not an entity id; wanted kind:namespace/name")
    return match["kind"], match["namespace"], match["name"]


def entity_name(entity: str) -> str:
    """The short name to show a person; the text itself where it is no entity id.

    >>> entity_name("service:default/payment"), entity_name("whatever")
    ('payment', 'whatever')
    """
    match = _ENTITY.match(entity)
    return match["name"] if match else entity


def digest(*parts: str, size_bytes: int = 16) -> str:
    """Hex digest over length-prefixed parts, so that ("ab", "c") and ("a", "bc") differ."""
    hasher = hashlib.blake2b(digest_size=size_bytes)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.hexdigest()


def fingerprint(labels: Mapping[str, str]) -> str:
    """Identity of an alert definition from its identifying labels; the order of labels does not matter.

    >>> fingerprint({"a": "1", "b": "2"}) == fingerprint({"b": "2", "a": "1"})
    True
    """
    flat: list[str] = []
    for name in sorted(labels):
        flat += (name, labels[name])
    return digest(*flat, size_bytes=8)


def alert_id(tenant: str, alert_fingerprint: str, starts_ns: int) -> str:
    """Id of one firing episode; the same episode reported twice has the same id."""
    return "al-" + digest(tenant, alert_fingerprint, str(starts_ns))[:24]


def time_ordered_id(prefix: str, now_ns: int) -> str:
    """`prefix-` + 12 hex digits of milliseconds + 12 random ones; sorts by time of making."""
    return f"{prefix}-{now_ns // 1_000_000:012x}{secrets.token_hex(6)}"


def derived_id(prefix: str, time_ns: int, *parts: str) -> str:
    """`prefix-` + 12 hex digits of milliseconds + 12 of a digest: sorts by time and can be computed again."""
    return f"{prefix}-{time_ns // 1_000_000:012x}{digest(*parts)[:12]}"
