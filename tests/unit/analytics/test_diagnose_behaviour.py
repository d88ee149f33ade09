"""What requests do and log, before and after: a line that is missing is a clue only while lines are collected."""

from __future__ import annotations

import numpy as np

from headspring.analytics.diagnose.behaviour import behaviour_clues
from headspring.analytics.diagnose.case import LogTable
from headspring.analytics.diagnose.spans import Forest
from headspring.knowledge.traces.port import SpanTable

SECOND_NS = 10**9
REQUESTS = 40
"""One per second and operation, half of them before the onset."""


def column(values: list[str]) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    return np.array(values, dtype=np.object_)


def requests() -> SpanTable:
    names = [f"{operation}-{n}" for n in range(REQUESTS) for operation in ("pay", "list")]
    count = len(names)
    return SpanTable(
        trace_id=column(names),
        span_id=column(names),
        parent_span_id=column([""] * count),
        entity=column(["shop"] * count),
        instance=column(["shop-1"] * count),
        operation=column([name.split("-")[0] for name in names]),
        kind=column(["server"] * count),
        peer=column([""] * count),
        start_ns=np.repeat(np.arange(REQUESTS, dtype=np.int64), 2) * SECOND_NS,
        duration_ns=np.full(count, SECOND_NS // 10, dtype=np.int64),
        status=column(["ok"] * count),
        status_message=column([""] * count),
    )


def lines(names: list[str], text: str, *, severity: int = 9) -> LogTable:
    return LogTable(
        time_ns=np.array([int(name.split("-")[1]) * SECOND_NS + SECOND_NS // 20 for name in names], dtype=np.int64),
        entity=column(["shop"] * len(names)),
        severity=np.full(len(names), severity, dtype=np.int64),
        body=column([text] * len(names)),
        trace_id=column(names),
        span_id=column(names),
    )


def halves() -> tuple[Forest, Forest]:
    table = requests()
    old = table.start_ns < REQUESTS // 2 * SECOND_NS
    both = [SpanTable(**{n: getattr(table, n)[rows] for n in table.__slots__}) for rows in (old, ~old)]
    return Forest.of(both[0]), Forest.of(both[1])


def test_a_line_that_requests_of_one_kind_no_longer_write_is_a_clue() -> None:
    names = [f"list-{n}" for n in range(REQUESTS)] + [f"pay-{n}" for n in range(REQUESTS // 2)]
    (clue,) = behaviour_clues(*halves(), lines(sorted(names, key=lambda name: int(name.split("-")[1])), "done"))
    assert clue.entity == "shop"
    assert "0% of its pay requests, 100% before" in clue.summary


def test_lines_that_stop_altogether_are_no_clue() -> None:
    names = [f"{operation}-{n}" for n in range(REQUESTS // 2) for operation in ("list", "pay")]
    assert behaviour_clues(*halves(), lines(names, "done")) == []


def test_lines_that_begin_late_are_no_clue() -> None:
    names = [f"{operation}-{n}" for n in range(REQUESTS // 2 + 5, REQUESTS) for operation in ("list", "pay")]
    assert behaviour_clues(*halves(), lines(names, "done")) == []


def test_an_error_line_is_a_clue_though_nothing_was_ever_logged_before() -> None:
    names = [f"pay-{n}" for n in range(REQUESTS // 2, REQUESTS)]
    assert behaviour_clues(*halves(), lines(names, "done")) == []
    (clue,) = behaviour_clues(*halves(), lines(names, "payment failed", severity=17))
    assert "payment failed" in clue.summary
