"""One evaluation of a tenant's table: newest values in, scores, states and learning on. No clock, no I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headspring.analytics.detect import hold, judge
from headspring.analytics.detect.config import DetectConfig
from headspring.analytics.detect.judge import JudgeKind, Sight, Verdict
from headspring.analytics.detect.policy import Policy
from headspring.analytics.detect.table import Floats, Ints, Table
from headspring.proto.clock import NS_PER_S
from headspring.proto.detection import Severity

_JUDGES: dict[Policy, Callable[[Sight, DetectConfig], Verdict]] = {
    Policy.LATENCY: judge.latency,
    Policy.ERRORS: judge.errors,
    Policy.REQUESTS: judge.requests,
    Policy.LEVEL: judge.level,
    Policy.RESOURCE: judge.resource,
    Policy.SHARE: judge.saturation,
}
_CLEAR_STEP = 4.0
"""A latency that scores this much is a step that nobody needs to wait for …"""
_PATIENCE = 6.0
"""… one that scores just above 1 must last this many times the hold."""
_WEAK = 1.5
"""Scores below this must last twice as long."""
_STRONG = 3.0
"""Scores from here on are three times what counts as an anomaly in everything that the judge asks for."""
_MANY = 20.0
"""Requests that one value must be about to be told without a second: one slow request moves their mean by 5 %."""
_NEVER_USUAL = (JudgeKind.ERRORS, JudgeKind.SILENCE, JudgeKind.NO_DATA)
"""What these find stays wrong however long it lasts."""
_GONE_S = 60.0
"""A firing series that reports no more for so long has nothing left to say."""
_SILENT_GONE_S = 3600.0
"""Unless silence is what it fires for."""
RANKS = (Severity.UNSPECIFIED, Severity.INFO, Severity.WARNING, Severity.ERROR, Severity.CRITICAL)
"""Severity of each number in the column `severity`."""
_INFO, _WARNING, _ERROR, _CRITICAL = 1, 2, 3, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Rows that have something to tell."""

    firing: Ints
    """New alerts, and those whose time has come to be told again."""
    ended: Ints


def evaluate(
    table: Table, ids: NDArray[np.uint64], times: Ints, values: Floats, config: DetectConfig, now_s: float
) -> Changes:
    """Takes the newest values of series; those not newer than what is known are left out."""
    rows = table.find(ids)
    col = table.col
    fresh = (rows >= 0) & np.isfinite(values)
    fresh[fresh] = times[fresh] > col["last_ns"][rows[fresh]]
    rows, times, values = rows[fresh], times[fresh], values[fresh]
    if not rows.size:
        return Changes(firing=rows, ended=rows)
    if np.unique(rows).size != rows.size:
        rows, places = np.unique(rows[::-1], return_index=True)
        times, values = times[::-1][places], values[::-1][places]
    table.take(rows, times, values, int(times.max()), now_s)
    _note_silence(table, rows, times, values, config)
    score, alone, kind = np.zeros(rows.size), np.zeros(rows.size), np.zeros(rows.size, dtype=np.uint8)
    policies = col["policy"][rows]
    judged = _judged(table, rows, times, config)
    for policy, judge_of in _JUDGES.items():
        at = np.flatnonzero((policies == policy) & judged)
        if not at.size:
            continue
        found = judge_of(_sight(table, rows[at], times[at]), config)
        score[at], alone[at], kind[at] = found.score, found.alone, found.judge
        _show(table, rows[at], found)
    # An episode belongs to the judge that began it: what another sees then is another episode, afterwards.
    other = (col["state"][rows] != hold.QUIET) & (kind != col["judge"][rows])
    score[other] = 0.0
    # Silence that begins while senders may still be coming back is not told, and not learned either.
    early = (now_s < table.silence_from_s) & (kind == JudgeKind.SILENCE) & (col["state"][rows] == hold.QUIET)
    changes = _step(table, rows, times, np.where(early, 0.0, score), kind, config)
    _learn(table, rows, times, score, alone, config)
    return changes


def look_for_absent(table: Table, now_ns: int, config: DetectConfig, now_s: float) -> Changes:
    """Series that stopped reporting, by the tenant's own event time; `now_ns` only bounds clocks that run ahead."""
    n, col = table.size, table.col
    last = col["last_ns"][:n]
    sane = last[last <= now_ns + round(_GONE_S * NS_PER_S)]
    nothing = np.zeros(0, dtype=np.int64)
    if not sane.size:
        return Changes(firing=nothing, ended=nothing)
    newest = int(sane.max())
    silent_s = np.maximum(newest - last, 0) / NS_PER_S - col["lag_s"][:n]
    state, kind, interval = col["state"][:n], col["judge"][:n], np.maximum(col["interval_s"][:n], 0.1)
    # Both clocks must agree: event time leaps when a backlog is read or after a pause of ours.
    unheard_s = np.minimum(silent_s, now_s - table.heard_s[:n])
    ratio = np.minimum(unheard_s / config.no_data_s, unheard_s / (3.0 * interval))
    steady = np.minimum(col["median"][:n], col["mean"][:n])
    watched = (
        (col["policy"][:n] == Policy.REQUESTS) & (col["edge"][:n] == 0) & (col["updates"][:n] >= config.min_updates)
        & (steady >= config.silence_least_per_s) & (col["recent"][:n, 0] > 0)
        & ((state == hold.QUIET) | (kind == JudgeKind.NO_DATA)) & (last > 0)
    )  # fmt: skip
    watched &= (state != hold.QUIET) | (now_s >= table.silence_from_s)
    absent = watched & ((ratio > 1.0) | (state == hold.PENDING))
    gone_s = np.where(np.isin(kind, (JudgeKind.SILENCE, JudgeKind.NO_DATA)), _SILENT_GONE_S, _GONE_S + 3.0 * interval)
    gone = (state != hold.QUIET) & (silent_s > gone_s)
    absent &= ~gone
    absent |= (state != hold.QUIET) & (kind == JudgeKind.NO_DATA) & (ratio > 1.0) & ~gone
    rows = np.flatnonzero(absent | gone)
    if not rows.size:
        return Changes(firing=nothing, ended=nothing)
    score = np.where(absent[rows], np.minimum(ratio[rows], 100.0), 0.0)
    kinds = np.where(absent[rows], JudgeKind.NO_DATA, kind[rows]).astype(np.uint8)
    shown = rows[absent[rows]]
    col["value"][shown] = 0.0
    col["low"][shown] = config.silence_share * steady[shown]
    col["high"][shown] = np.maximum(config.surge_ratio * col["median"][shown], col["low"][shown])
    return _step(table, rows, np.full(rows.size, newest, dtype=np.int64), score, kinds, config)


def _judged(table: Table, rows: Ints, times: Ints, config: DetectConfig) -> NDArray[np.bool_]:
    col = table.col
    warm = (col["updates"][rows] > config.min_updates) & (
        times - col["first_ns"][rows] >= round(config.min_observed_s * NS_PER_S)
    )
    wanted = ~((col["policy"][rows] == Policy.REQUESTS) & (col["edge"][rows] == 1))
    if not config.resources:
        wanted &= ~np.isin(col["policy"][rows], (Policy.RESOURCE, Policy.SHARE))
    return np.asarray(warm & wanted)


def _note_silence(table: Table, rows: Ints, times: Ints, values: Floats, config: DetectConfig) -> None:
    """When the run of low request rates began that goes on now; 0 for none."""
    col = table.col
    low = values < config.silence_share * np.minimum(col["median"][rows], col["mean"][rows])
    began = times - (col["interval_s"][rows] * NS_PER_S).astype(np.int64)
    run = col["low_from_ns"][rows]
    col["low_from_ns"][rows] = np.where(low, np.where(run > 0, run, began), 0)


def _sight(table: Table, rows: Ints, times: Ints) -> Sight:
    col = table.col
    link = col["link"][rows]
    linked = (link >= 0) & (col["count"][link] > 0)
    near = col["recent"][link, : judge.NEAR].astype(np.float64)
    there = np.isfinite(near)
    rate = np.where(there, near, 0.0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
    run = col["low_from_ns"][rows]
    return Sight(
        recent=col["recent"][rows].astype(np.float64),
        **{name: col[name][rows] for name in ("median", "up", "down", "mean", "variance", "floor", "scale")},
        interval_s=col["interval_s"][rows],
        quiet_s=np.where(run > 0, (times - run) / NS_PER_S, 0.0),
        rate=np.where(linked & there.any(axis=1), rate, np.nan),
        usual_rate=np.where(linked, col["median"][link], np.nan),
    )


def _show(table: Table, rows: Ints, found: Verdict) -> None:
    """What alerts will say: the newest anomalous evaluation."""
    col = table.col
    shown = (found.score > 1.0) & ((col["state"][rows] == hold.QUIET) | (col["judge"][rows] == found.judge))
    for name in ("value", "low", "high"):
        col[name][rows[shown]] = getattr(found, name)[shown]


def _step(
    table: Table, rows: Ints, times: Ints, score: Floats, kind: NDArray[np.uint8], config: DetectConfig
) -> Changes:
    col = table.col
    old = col["state"][rows]
    need_ns, need_streak = _needs(kind, score, config)
    new, since, streak = hold.step(
        old, col["since_ns"][rows], col["streak"][rows], score, times, need_ns, need_streak, config.release,
        round(config.recover_s * NS_PER_S),
    )  # fmt: skip
    began = (old == hold.QUIET) & (new == hold.PENDING)
    sure = (new == hold.PENDING) & _says_enough(table, rows, kind, score, config)
    new = np.where(sure, hold.TRANSITIONS[hold.PENDING, hold.RIPE], new)
    old = np.where(sure, hold.PENDING, old)
    col["state"][rows], col["since_ns"][rows], col["streak"][rows] = new, since, streak
    col["starts_ns"][rows[began]] = times[began]
    col["judge"][rows[began]] = kind[began]
    col["severity"][rows[began]] = 0
    high = score > 1.0
    col["score"][rows[high]] = score[high]
    severity = np.where(high, _severity(table, rows, kind), 0)
    worse = severity > col["severity"][rows]
    col["severity"][rows[worse]] = severity[worse]
    due = times - col["told_ns"][rows] >= round(config.update_s * NS_PER_S)
    tell = hold.fired(old, new) | ((new == hold.FIRING) & high & (due | worse))
    col["told_ns"][rows[tell]] = times[tell]
    return Changes(firing=rows[tell], ended=rows[hold.ended(old, new)])


def _needs(kind: NDArray[np.uint8], score: Floats, config: DetectConfig) -> tuple[Ints, Ints]:
    """How long (ns) and how many evaluations in a row."""
    hold_s = np.full(len(JudgeKind), config.hold_s)
    hold_s[[JudgeKind.LEVEL_UP, JudgeKind.LEVEL_DOWN]] = config.level_hold_s
    hold_s[JudgeKind.RESOURCE] = config.resource_hold_s
    hold_s[JudgeKind.SATURATION] = config.saturation_hold_s
    hold_s[JudgeKind.SURGE] = 5 * config.hold_s
    # Silence has its evidence in its score: it grows with time.
    weak = (score < _WEAK) & (kind == JudgeKind.ERRORS)
    longer = np.where(weak, 2.0, 1.0)
    # A machine that is busy for a moment makes everything somewhat slow: that much must last. A real step need not.
    slow = kind == JudgeKind.LATENCY
    patience = np.interp(score, (1.0, _CLEAR_STEP), (_PATIENCE, 1.0))
    longer = np.where(slow, patience, longer)
    need = hold_s[kind] * longer
    # A level that is far off twice in a row has moved, whatever it means.
    level = np.isin(kind, (JudgeKind.LEVEL_UP, JudgeKind.LEVEL_DOWN))
    need = np.where(level & (score >= _STRONG), np.minimum(need, config.hold_s), need)
    return (need * NS_PER_S).astype(np.int64), np.where(weak | (slow & (patience > 2.0)), 3, 2)


def _says_enough(
    table: Table, rows: Ints, kind: NDArray[np.uint8], score: Floats, config: DetectConfig
) -> NDArray[np.bool_]:
    """Where one value is as much as others say with two: about many requests, over twice the hold, and far off."""
    col = table.col
    link, interval_s = col["link"][rows], col["interval_s"][rows]
    rate = np.where((link >= 0) & (col["count"][link] > 0), np.nan_to_num(col["recent"][link, 0]), 0.0)
    about_requests = np.isin(kind, (JudgeKind.LATENCY, JudgeKind.ERRORS))
    enough = (interval_s >= 2 * config.hold_s) & (rate * interval_s >= _MANY)
    return np.asarray(about_requests & enough & (score >= _STRONG))


def _severity(table: Table, rows: Ints, kind: NDArray[np.uint8]) -> Ints:
    """By what users feel: share of failed requests, multiple of the usual latency."""
    col = table.col
    value, median = col["value"][rows], col["median"][rows]
    times_usual = value / np.maximum(median, 1e-9)
    rank = np.full(rows.size, _WARNING, dtype=np.int64)
    is_latency, is_errors = kind == JudgeKind.LATENCY, kind == JudgeKind.ERRORS
    rank[(is_latency & (times_usual >= 2)) | (is_errors & (value >= 0.10))] = _ERROR
    rank[(is_latency & (times_usual >= 5)) | (is_errors & (value >= 0.25))] = _CRITICAL
    rank[np.isin(kind, (JudgeKind.SILENCE, JudgeKind.NO_DATA))] = _CRITICAL
    rank[np.isin(kind, (JudgeKind.RESOURCE, JudgeKind.SATURATION))] = _INFO
    # A call is one of many that make up a service: its end users may not feel it.
    return np.where(col["edge"][rows] == 1, np.minimum(rank, _ERROR), rank)


def _learn(table: Table, rows: Ints, times: Ints, score: Floats, alone: Floats, config: DetectConfig) -> None:
    """Baselines take what is not anomalous; what lasts for long enough becomes usual."""
    col = table.col
    calm = (score <= 1.0) & (alone <= 1.0) & np.isin(col["state"][rows], (hold.QUIET, hold.RECOVERING))
    masked = col["masked_ns"][rows]
    masked = np.where(calm, 0, np.where(masked > 0, masked, times))
    col["masked_ns"][rows] = masked
    table.learn(rows[calm], times[calm], round(config.learn_every_s * NS_PER_S))
    lasting = (masked > 0) & (times - masked >= round(config.adopt_s * NS_PER_S))
    lasting &= ~np.isin(col["judge"][rows], _NEVER_USUAL)
    table.start_again(rows[lasting])
