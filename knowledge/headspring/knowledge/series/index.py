"""Which series match a set of label conditions: an inverted index in memory.

Label names are found as they were sent and in their Prometheus spelling (`http.method` also as
`http_method`), because PromQL cannot write dots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from headspring.knowledge.series.port import Matcher, MatchOp
from headspring.proto.semantics import prometheus_name
from headspring.proto.telemetry import SeriesDescriptor

RegexMatch = Callable[[str, Sequence[str]], Sequence[bool]]
"""(pattern, texts) → for each text whether the whole of it matches. Must run in linear time: patterns
come from queries."""

NAME_LABEL = "__name__"
ENTITY_LABEL = "__entity__"


def label_values(descriptor: SeriesDescriptor) -> Mapping[str, tuple[str, ...]]:
    """Every label a series can be asked by, with its value in each spelling."""
    spelt = prometheus_name(descriptor.name)
    values: dict[str, tuple[str, ...]] = {
        NAME_LABEL: (spelt,) if spelt == descriptor.name else (spelt, descriptor.name)
    }
    if descriptor.entity:
        values[ENTITY_LABEL] = (descriptor.entity,)
    for label, value in descriptor.labels.items():
        # An empty label is a missing label (Prometheus' data model).
        if value and label not in (NAME_LABEL, ENTITY_LABEL):
            values[label] = (value,)
    for label, value in descriptor.labels.items():
        if value:
            values.setdefault(prometheus_name(label), (value,))
    return values


def sort_key(descriptor: SeriesDescriptor) -> tuple[str, tuple[tuple[str, str], ...], int]:
    """Series are listed by name, then labels; the id settles what is left."""
    return descriptor.name, tuple(sorted(descriptor.labels.items())), descriptor.series_id


class LabelIndex:
    """The series of one tenant. Not thread-safe: its store holds the lock."""

    def __init__(self, regex_match: RegexMatch) -> None:
        self.descriptors: dict[int, SeriesDescriptor] = {}
        self._by_label: dict[str, dict[str, set[int]]] = {}
        self._regex_match = regex_match

    def add(self, descriptor: SeriesDescriptor) -> bool:
        """Returns whether the series was new or differs from what was known."""
        known = self.descriptors.get(descriptor.series_id)
        if known == descriptor:
            return False
        if known is not None:
            for label, values in label_values(known).items():
                for value in values:
                    self._by_label[label][value].discard(known.series_id)
        self.descriptors[descriptor.series_id] = descriptor
        for label, values in label_values(descriptor).items():
            for value in values:
                self._by_label.setdefault(label, {}).setdefault(value, set()).add(descriptor.series_id)
        return True

    def find(self, matchers: Sequence[Matcher]) -> list[SeriesDescriptor]:
        """Series that match all conditions, in listing order."""
        found: set[int] | None = None
        # Equality first: it is the cheapest and cuts most.
        for matcher in sorted(matchers, key=lambda one: (one.op is not MatchOp.EQUAL, one.op is not MatchOp.REGEX)):
            found = self._matching(matcher, found)
            if not found:
                return []
        ids = self.descriptors if found is None else found
        return sorted((self.descriptors[series_id] for series_id in ids), key=sort_key)

    def _matching(self, matcher: Matcher, among: set[int] | None) -> set[int]:
        values = self._by_label.get(matcher.label, {})
        if matcher.op in (MatchOp.EQUAL, MatchOp.NOT_EQUAL):
            hit = set(values.get(matcher.value, ()))
            empty_matches = matcher.value == ""
        else:
            texts = [*values, ""]
            matched = self._regex_match(matcher.value, texts)
            hit = set().union(*(values[text] for text, ok in zip(texts, matched, strict=True) if ok and text))
            empty_matches = matched[-1]
        everything = among if among is not None else set(self.descriptors)
        if empty_matches:
            hit |= everything.difference(*values.values())
        negated = matcher.op in (MatchOp.NOT_EQUAL, MatchOp.NOT_REGEX)
        return everything - hit if negated else everything & hit
