"""A series' descriptor as labels in VictoriaMetrics, and back.

The server alone must be enough to know every series, so its labels hold the whole descriptor: the metric's name
and its labels in Prometheus' spelling, as anybody's dashboard expects them, and beside them ours::

    __tenant__ __series__     tenant, and series id in hex: what makes the series one of its own
    __entity__ __unit__ __kind__   where they are not empty, and not a gauge
    __original__              the metric's name as it was sent, where that is another
    __sent__                  JSON: labels' names as they were sent ("l"), labels with an empty value ("e")
    __rest__                  JSON: labels that a label of the server cannot hold; such series are *odd*
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from headspring.proto.semantics import prometheus_name
from headspring.proto.telemetry import MetricKind, SeriesDescriptor

NAME, TENANT, SERIES, ENTITY, UNIT, KIND = (
    "__name__", "__tenant__", "__series__", "__entity__", "__unit__", "__kind__",
)  # fmt: skip
ORIGINAL, SENT, REST = "__original__", "__sent__", "__rest__"
RESERVED = frozenset((NAME, TENANT, SERIES, ENTITY, UNIT, KIND, ORIGINAL, SENT, REST, "__unseen__", "__graphite__"))
"""`__graphite__` means something of its own in VictoriaMetrics' queries; `__unseen__` is asked for and never there."""
_OURS = 9
MAX_NAME_BYTES = 200
"""The server cuts names at 256 bytes."""

Labels = tuple[tuple[str, str], ...]
"""In the order in which they are sent: if the server keeps a part only, then the part that says who it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelLimits:
    """What the server keeps of a series' labels; beyond it, it drops labels without a word."""

    max_labels: int = 30
    """`-maxLabelsPerTimeseries`, ours counted; its smallest default."""
    max_value_bytes: int = 4096
    """`-maxLabelValueLen`; its smallest default."""


@dataclass(frozen=True, slots=True)
class Spelt:
    """A descriptor as labels."""

    labels: Labels
    cut: tuple[str, ...] = ()
    """Labels that found no place at all: longer in sum than a label value may be."""


def series_key(series_id: int) -> str:
    """A series id as the label `__series__` holds it."""
    return f"{series_id:016x}"


def to_labels(descriptor: SeriesDescriptor, limits: LabelLimits) -> Spelt:
    """Labels of a descriptor; the same ones for the same descriptor."""
    plain: dict[str, str] = {}
    sent: dict[str, str] = {}
    rest: dict[str, str] = {}
    empty: list[str] = []
    # A label that is spelt so already has the first claim to its spelling, as in the embedded index.
    for label in sorted(descriptor.labels, key=lambda one: (prometheus_name(one) != one, one)):
        value, spelt = descriptor.labels[label], prometheus_name(label)
        if not value:
            empty.append(label)
        elif (
            not spelt
            or spelt in RESERVED
            or spelt in plain
            or len(spelt) > MAX_NAME_BYTES
            or len(value.encode()) > limits.max_value_bytes
            or len(plain) >= limits.max_labels - _OURS
        ):
            rest[label] = value
        else:
            plain[spelt] = value
            if spelt != label:
                sent[spelt] = label
    name = prometheus_name(descriptor.name)
    kind = "" if descriptor.kind is MetricKind.GAUGE else descriptor.kind.value
    known = {"l": sent, "e": empty}
    spelling = _json({key: value for key, value in known.items() if value})
    cut: list[str] = []
    while len(spelling.encode()) > limits.max_value_bytes:
        # Found by their Prometheus spelling all the same.
        cut.append(sent.popitem()[1] if sent else empty.pop())
        spelling = _json({key: value for key, value in known.items() if value})
    remains = _json(rest)
    while len(remains.encode()) > limits.max_value_bytes:
        cut.append(rest.popitem()[0])
        remains = _json(rest)
    ours = (
        (NAME, name),
        (TENANT, descriptor.tenant),
        (SERIES, series_key(descriptor.series_id)),
        (ENTITY, descriptor.entity),
        (UNIT, descriptor.unit),
        (KIND, kind),
        (ORIGINAL, descriptor.name if descriptor.name != name else ""),
        (SENT, spelling),
        (REST, remains),
    )
    return Spelt((*(one for one in ours if one[1]), *sorted(plain.items())), tuple(sorted(cut)))


def undescribed(tenant: str, series_id: int) -> Labels:
    """Labels of samples whose series nobody has described yet."""
    return ((TENANT, tenant), (SERIES, series_key(series_id)))


def from_labels(metric: Mapping[str, str]) -> SeriesDescriptor | None:
    """The descriptor that these labels hold; None for an undescribed series. Raises ValueError for labels that
    are not ours."""
    try:
        series_id, tenant = int(metric[SERIES], 16), metric[TENANT]
    except KeyError as error:
        raise ValueError(f"a series without the label {error}") from None
    if NAME not in metric:
        return None
    spellings = json.loads(metric.get(SENT, "{}"))
    originals = spellings.get("l", {})
    labels = dict(_plain(metric, originals))
    labels.update(dict.fromkeys(spellings.get("e", ()), ""))
    labels.update(json.loads(metric.get(REST, "{}")))
    return SeriesDescriptor(
        series_id=series_id,
        tenant=tenant,
        name=metric.get(ORIGINAL) or metric[NAME],
        unit=metric.get(UNIT, ""),
        kind=_kind(metric.get(KIND, MetricKind.GAUGE.value)),
        entity=metric.get(ENTITY, ""),
        labels=labels,
    )


def _kind(text: str) -> MetricKind:
    try:
        return MetricKind(text)
    except ValueError:
        return MetricKind.UNSPECIFIED  # written by a newer version


def _plain(metric: Mapping[str, str], originals: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for label, value in metric.items():
        if label not in RESERVED:
            yield originals.get(label, label), value


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True) if value else ""
