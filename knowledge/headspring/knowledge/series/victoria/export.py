"""Lines of VictoriaMetrics' export as columns.

A line is one series: `{"metric":{…},"values":[…],"timestamps":[…]}`, values as JSON numbers or `null` (a gap),
`+Inf`, `-Inf` or "Infinity".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from headspring.knowledge.series.victoria.labels import REST, SERIES, from_labels
from headspring.proto.errors import Unavailable
from headspring.proto.telemetry import SeriesDescriptor

T = TypeVar("T", bound=np.generic)
_METRIC, _VALUES, _TIMES = b'{"metric":', b',"values":[', b'],"timestamps":['
_MAX_KNOWN = 100_000
"""Descriptors kept by their JSON: a dashboard asks for the same series again and again."""


@dataclass(frozen=True, slots=True)
class Described:
    """A series as its labels tell it."""

    series_id: int
    descriptor: SeriesDescriptor | None
    """None: samples came before the series was registered."""
    odd: bool
    """Whether some of its labels are not labels of the server."""


@dataclass(frozen=True, slots=True)
class Line:
    """Samples of one series as the server gave them: equal times may be there several times."""

    series: Described | None
    """None: not one of ours."""
    time_ms: NDArray[np.int64]
    value: NDArray[np.float64]


class ExportReader:
    """Reads lines; keeps descriptors that it has seen. Thread-safe: what two threads read twice is equal."""

    def __init__(self) -> None:
        self._known: dict[bytes, Described | None] = {}

    def read(self, line: bytes) -> Line:
        """
        Raises:
            Unavailable: this is no line of an export; the server broke off.
        """
        try:
            if not line.startswith(_METRIC):
                raise ValueError("no series")
            times_at = line.rindex(_TIMES)
            # Inside a JSON text no quote stands bare, so this cannot be part of a label.
            values_at = line.rindex(_VALUES, 0, times_at)
            values = line[values_at + len(_VALUES) : times_at]
            if b"n" in values:
                values = values.replace(b"null", b"nan").replace(b'"', b"")
            times = line[times_at + len(_TIMES) : line.rindex(b"]")]
            series = self._described(line[len(_METRIC) : values_at])
            time_ms, value = _numbers(times, np.int64), _numbers(values, np.float64)
            if time_ms.size != value.size:
                raise ValueError(f"{time_ms.size} times and {value.size} values")
        except ValueError as error:
            raise Unavailable(f"VictoriaMetrics broke off its answer ({error}): {line[:120]!r}") from error
        return Line(series, time_ms, value)

    def _described(self, text: bytes) -> Described | None:
        if text not in self._known:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[text] = described(json.loads(text))
        return self._known.get(text)


def described(metric: Mapping[str, str]) -> Described | None:
    """What a series' labels say; None for a series that is not ours."""
    try:
        return Described(int(metric[SERIES], 16), from_labels(metric), REST in metric)
    except (KeyError, ValueError):
        return None


def _numbers(text: bytes, kind: type[T]) -> NDArray[T]:
    return np.fromstring(text, dtype=kind, sep=",") if text else np.empty(0, dtype=kind)


def lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Whole lines out of pieces as they come over the network; empty ones left out."""
    begun: list[bytes] = []
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        begun.append(first)
        if others:
            yield from filter(None, (b"".join(begun), *others[:-1]))
            begun = [others[-1]]
    if any(begun):
        yield b"".join(begun)
