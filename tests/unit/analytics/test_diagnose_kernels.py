"""The kernels of the diagnosis, each by what must never go wrong with it."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from headspring.analytics.diagnose.case import Case, Clue, Role, Series
from headspring.analytics.diagnose.changes import change_clues
from headspring.analytics.diagnose.engine import diagnose
from headspring.analytics.diagnose.onset import onset
from headspring.analytics.diagnose.posterior import infer
from headspring.analytics.diagnose.severity import CAP, deviations
from headspring.knowledge.topology.graph import Edge, Topology
from headspring.proto.clock import NS_PER_S
from headspring.proto.detection import Alert
from headspring.proto.telemetry import Change, ChangeKind

MINUTE_NS = 60 * NS_PER_S


def series(entity: str, metric: str, role: Role, before: list[float], after: list[float]) -> Series:
    value = np.array([*before, *after])
    return Series(
        entity=entity, metric=metric, role=role, time_ns=np.arange(value.size, dtype=np.int64) * MINUTE_NS, value=value
    )


def scored(one: Series, normal: int) -> float:
    end = one.time_ns.size * MINUTE_NS
    found = deviations([one], (0, normal * MINUTE_NS), (normal * MINUTE_NS, end))
    return found[0].adverse


def test_a_constant_series_that_moves_by_a_hair_is_no_anomaly() -> None:
    assert scored(series("a", "latency", Role.LATENCY, [0.1] * 30, [0.1004] * 5), 30) < 1


def test_scores_are_capped_and_finite_on_flat_normals() -> None:
    assert scored(series("a", "latency", Role.LATENCY, [0.0] * 30, [1e9] * 5), 30) == CAP


def test_faster_answers_and_fewer_errors_are_not_bad_news() -> None:
    assert scored(series("a", "latency", Role.LATENCY, [1.0, 1.1] * 15, [0.1] * 5), 30) == 0
    assert scored(series("a", "availability", Role.SUCCESS, [90.0, 91.0] * 15, [100.0] * 5), 30) == 0


def test_one_odd_sample_in_a_long_window_counts_for_nothing() -> None:
    noise = np.random.default_rng(3).normal(10, 1, 60).tolist()
    assert scored(series("a", "cpu", Role.RESOURCE, noise[:30], [*noise[30:45], 500.0, *noise[45:]]), 30) < 3


def test_onset_is_the_first_sustained_sample_within_one_interval() -> None:
    times = np.arange(20, dtype=np.int64) * NS_PER_S
    scores = np.zeros(20)
    scores[4] = 9.0  # a single spike is no onset
    scores[11:] = 8.0
    found = onset(times, scores)
    assert found is not None
    assert abs(found.time_ns - 11 * NS_PER_S) <= found.uncertainty_ns


def test_the_deepest_cause_explains_its_callers_but_not_the_other_way() -> None:
    topology = Topology.of([Edge(caller="front", callee="mid"), Edge(caller="mid", callee="deep")])
    symptoms = {"front": 3.0, "mid": 3.0, "deep": 3.0}
    found = infer([Clue(entity="deep", kind="metric", llr=2.0, summary="")], symptoms, topology)
    assert max(found.probability, key=lambda e: found.probability[e]) == "deep"
    assert found.probability["deep"] > 3 * found.probability["front"]


def test_without_clues_and_symptoms_the_answer_is_none() -> None:
    found = infer([], {"a": -0.7, "b": -0.7}, Topology.of([Edge(caller="a", callee="b")]))
    assert found.none > 0.9


def test_a_calm_target_leaves_every_status_inconclusive() -> None:
    calm = series("a", "latency", Role.LATENCY, [1.0, 1.02, 0.98] * 10, [1.0] * 5)
    wild = series("b", "latency", Role.LATENCY, [1.0, 1.02, 0.98] * 10, [9.0] * 5)
    case = Case(
        incident_id="i", now_ns=35 * MINUTE_NS, window=(30 * MINUTE_NS, 35 * MINUTE_NS), normal=(0, 30 * MINUTE_NS),
        detected_ns=32 * MINUTE_NS, target=("a", "latency"), series=(calm, wild),
        alerts=(Alert(alert_id="x", tenant="default", fingerprint="x", entity="a", name="slo"),),
        topology=Topology.of([Edge(caller="a", callee="b")]),
    )  # fmt: skip
    found = diagnose(case)
    assert all(one.status.value == "inconclusive" for one in found.hypotheses)


def test_a_change_adds_nothing_without_other_evidence_and_little_with_it() -> None:
    change = Change(change_id="c", tenant="default", entity="a", kind=ChangeKind.DEPLOY, time_ns=0)
    assert change_clues([change], {}, NS_PER_S, tolerance_ns=0) == []
    after = change_clues([change], {"a": 3.0}, -NS_PER_S, tolerance_ns=0)
    assert after == []  # it came after the onset
    assert 0 < change_clues([change], {"a": 3.0}, NS_PER_S, tolerance_ns=0)[0].llr <= 1.5


def test_the_ranking_is_the_same_for_every_hash_seed(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "one"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    names = [f"svc{n}" for n in range(9)]
    rows = [
        (minute, name, "latency_avg", 0.1 + 0.01 * rng.random() + (0.5 if minute >= 40 and name in names[:4] else 0.0))
        for minute in range(46)
        for name in names
    ]
    import duckdb

    values = ",".join(f"(make_timestamp({m} * 60000000::BIGINT), '{s}', '{k}', {v})" for m, s, k, v in rows)
    target = folder / "metrics.parquet"
    duckdb.sql(f"COPY (SELECT * FROM (VALUES {values}) t(timestamp, service, metric, value)) TO '{target}'")
    edges = [{"from": a, "to": b, "type": "sync"} for a, b in itertools.pairwise(names)]
    (folder / "topology.json").write_text(
        json.dumps({"nodes": [{"id": name, "kind": "service"} for name in names], "edges": edges})
    )
    (folder / "incident.json").write_text(
        json.dumps(
            {
                "id": "one", "detected_at": "1970-01-01T00:42:00Z",
                "window": {"start": "1970-01-01T00:40:00Z", "end": "1970-01-01T00:46:00Z"},
                "normal": {"start": "1970-01-01T00:00:00Z", "end": "1970-01-01T00:40:00Z"},
                "alerts": [{"service": names[0], "name": "slo", "severity": "critical"}],
            }
        )
    )  # fmt: skip
    answers = []
    for seed in ("0", "1", "2"):
        out = tmp_path / f"{seed}.json"
        subprocess.run(
            [sys.executable, "-m", "headspring.analytics.diagnose.backtest", str(tmp_path / "set"), str(out)],
            check=True, env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        answer = json.loads(out.read_text())["one"]
        answer.pop("seconds")
        answers.append(answer)
    assert answers[0] == answers[1] == answers[2]
    assert answers[0]["causes"][0]["service"] == "svc3"
