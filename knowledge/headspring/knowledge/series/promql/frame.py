"""An instant vector at all steps of a query at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headspring.proto.errors import QueryError

Labels = tuple[tuple[str, str], ...]
"""Sorted (name, value) pairs without empty values; the metric's name is `__name__`."""
NAME = "__name__"


@dataclass(frozen=True, slots=True)
class Frame:
    """Rows are series, columns are steps. `present` tells a NaN value from no value."""

    labels: tuple[Labels, ...]
    value: NDArray[np.float64]
    present: NDArray[np.bool_]

    def with_values(self, value: NDArray[np.float64]) -> Frame:
        return Frame(self.labels, value, self.present)

    def relabelled(self, labels: Sequence[Labels]) -> Frame:
        """The same rows under new labels; rows that become alike are joined.

        Raises:
            QueryError: two of them have a value at the same step.
        """
        if len(set(labels)) == len(labels):
            return Frame(tuple(labels), self.value, self.present)
        groups: dict[Labels, list[int]] = {}
        for row, one in enumerate(labels):
            groups.setdefault(one, []).append(row)
        value, present = (
            np.empty((len(groups), self.value.shape[1])),
            np.empty((len(groups), self.value.shape[1]), bool),
        )
        for target, (one, rows) in enumerate(groups.items()):
            if (self.present[rows].sum(axis=0) > 1).any():
                raise QueryError(f"two series would have the same labels {text_of(one)}; aggregate first")
            present[target] = self.present[rows].any(axis=0)
            value[target] = np.where(self.present[rows], self.value[rows], 0.0).sum(axis=0)
        return Frame(tuple(groups), value, present)

    def without_name(self) -> Frame:
        return self.relabelled([without(one, {NAME}) for one in self.labels])


def labels_of(mapping: Mapping[str, str]) -> Labels:
    return tuple(sorted((name, value) for name, value in mapping.items() if value))


def without(labels: Labels, names: set[str] | frozenset[str]) -> Labels:
    return tuple(pair for pair in labels if pair[0] not in names)


def only(labels: Labels, names: set[str] | frozenset[str]) -> Labels:
    return tuple(pair for pair in labels if pair[0] in names)


def text_of(labels: Labels) -> str:
    return "{" + ", ".join(f'{name}="{value}"' for name, value in labels) + "}"
