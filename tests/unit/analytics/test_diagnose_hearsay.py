"""What an entity says of others, and what it lacks because of others, is not held against it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.unit.analytics.test_diagnose_world import START_NS, Estate, Fault, World, service, told

from headspring.analytics.diagnose import engine
from headspring.analytics.diagnose import gather as gathering
from headspring.analytics.diagnose.case import LogTable
from headspring.analytics.diagnose.logs import log_clues
from headspring.analytics.diagnose.severity import deviations
from headspring.knowledge.documents.port import DocumentStore
from headspring.proto.clock import NS_PER_S
from headspring.proto.incident import CauseKind
from headspring.proto.telemetry import LogBatch, LogRecord


def errors(entity: str, body: str, count: int) -> LogTable:
    def column(value: str) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
        return np.array([value] * count, dtype=np.object_)

    return LogTable(
        time_ns=np.arange(count, dtype=np.int64) + 100, entity=column(entity), severity=np.full(count, 17),
        body=column(body), trace_id=column(""), span_id=column(""),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "most"),
    [("payment cannot be reached", 1.0), ("prepayment cannot be booked", 9.0), ("mail cannot be sent", 9.0)],
)
def test_error_lines_that_name_a_callee_hardly_count_against_who_wrote_them(body: str, most: float) -> None:
    (clue,) = log_clues(errors("checkout", body, 40), 50, 1000, {"checkout": ["payment"]})
    (alone,) = log_clues(errors("checkout", body, 40), 50, 1000)
    assert clue.llr <= most
    assert alone.llr > 3.0
    assert (clue.llr < alone.llr) == (most == 1.0)


@pytest.mark.parametrize("seed", range(6))
async def test_a_database_that_is_asked_less_because_its_caller_died_is_not_blamed(seed: int) -> None:
    world = World(
        calls={"front": ["desk", "shelf"], "desk": ["till", "shelf"], "till": ["ledger"], "shelf": ["ledger"],
               "ledger": []},
        seed=seed, faults=[Fault(where="till", at_s=50, dead=True)],
    )  # fmt: skip
    estate = Estate(world)
    await estate.run(64)
    found = await estate.diagnosed(estate.incident(["desk", "front"], at_s=56))
    assert found.hypotheses[0].entity == service("till"), told(found)
    assert found.hypotheses[0].kind is CauseKind.CRASH
    assert all(one.probability < 0.3 for one in found.hypotheses if one.entity == service("ledger")), told(found)


def store_lines(documents: DocumentStore, count: int, *, severity: int = 9) -> None:
    records = tuple(
        LogRecord(time_ns=START_NS + n * NS_PER_S // 100, severity_number=severity, body=f"line {n}")
        for n in range(count)
    )
    documents.put_logs(LogBatch(tenant="default", entity=service("shop"), records=records))


def test_all_lines_of_a_range_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    estate = Estate(World(calls={"shop": []}))
    store_lines(estate.documents, 2500)
    window = (START_NS + 10 * NS_PER_S, START_NS + 3600 * NS_PER_S)
    table = gathering._logs(estate.documents, "default", (START_NS, window[0]), window)
    assert table is not None
    assert len(table) == 2500
    monkeypatch.setattr(gathering, "_MAX_LINES", 1000)
    assert gathering._logs(estate.documents, "default", (START_NS, window[0]), window) is None, "a hole is no silence"
    store_lines(estate.documents, 3, severity=17)
    table = gathering._logs(estate.documents, "default", (START_NS, window[0]), window)
    assert table is not None
    assert set(table.severity.tolist()) == {17}


async def test_a_blip_before_a_deployment_does_not_acquit_it() -> None:
    world = World(calls={"front": ["desk"], "desk": ["till"], "till": []}, seed=3)
    world.faults.append(Fault(where="till", at_s=50, delay_ms=300, errors=0.4))
    estate = Estate(world)
    await estate.run(64)
    case = gathering.gather(
        estate.incident(["till", "desk", "front"], at_s=55),
        gathering.Stores(topology=estate.graph, series=estate.series, traces=estate.traces, documents=estate.documents),
        gathering.Ranges(lead_ns=60 * NS_PER_S, normal_ns=600 * NS_PER_S),
        now_ns=estate.clock.now_ns(),
    )
    found = deviations(case.series, case.normal, case.window)
    begun = engine._onsets(case, found)
    mine = [
        item.series
        for item in found
        if item.series in begun and case.series[item.series].entity == service("till") and item.adverse > 6
    ]
    assert len(mine) >= 3
    blip = {**begun, mine[0]: replace(begun[mine[0]], time_ns=START_NS + 20 * NS_PER_S)}
    usual = engine._usual_onsets(case, found, blip)[service("till")]
    assert abs(usual - (START_NS + 50 * NS_PER_S)) <= 4 * NS_PER_S
