"""Diagnosis goes on while a store does not answer, says what it lacked, and looks again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.unit.analytics.test_diagnose_live import ALERT_S, FAULT_S
from tests.unit.analytics.test_diagnose_world import Estate, Fault, World, service, told

from headspring.analytics.diagnose.stage import DiagnoseConfig, DiagnoseStage
from headspring.knowledge.documents.port import LogHit, Page
from headspring.knowledge.documents.sqlite import SqliteDocumentStore
from headspring.proto import codec
from headspring.proto.errors import Unavailable
from headspring.proto.incident import Diagnosis
from headspring.proto.telemetry import Change


class AwayDocuments(SqliteDocumentStore):
    """A real store that can be told not to answer."""

    away = True

    def search_logs(self, *args: Any, **kwargs: Any) -> Page[LogHit]:
        self._answer()
        return super().search_logs(*args, **kwargs)

    def changes(self, *args: Any, **kwargs: Any) -> Sequence[Change]:
        self._answer()
        return super().changes(*args, **kwargs)

    def diagnosis(self, *args: Any, **kwargs: Any) -> Diagnosis | None:
        self._answer()
        return super().diagnosis(*args, **kwargs)

    def _answer(self) -> None:
        if self.away:
            raise Unavailable("the document store does not answer")


async def test_a_cause_is_told_without_the_document_store_and_told_whole_when_it_is_back() -> None:
    world = World.drawn(3)
    where = [name for name in world.calls if name != world.root][1]
    world.faults.append(Fault(where=where, at_s=FAULT_S, delay_ms=300))
    estate = Estate(world)
    documents = AwayDocuments(None)
    estate.stage = DiagnoseStage(
        clock=estate.clock, topology=estate.graph, series=estate.series, traces=estate.traces, documents=documents,
        config=DiagnoseConfig(settle_s=()),
    )  # fmt: skip
    await estate.run(FAULT_S + 14)
    found = await estate.diagnosed(estate.incident(world.chain(where), at_s=ALERT_S))
    assert found.hypotheses[0].entity == service(where), told(found)
    assert found.version == 1
    assert {"logs: the store does not answer", "changes: the store does not answer"} <= set(found.missing_telemetry)
    documents.away = False
    changes = Change(
        change_id="c1", tenant="default", entity=service(where), time_ns=estate.clock.now_ns() - 15 * 10**9,
        summary="new release",
    )  # fmt: skip
    documents.put_change(changes)
    await estate.run(11)
    again = [codec.decode(Diagnosis, out.value) for out in await estate.stage.tick(estate.clock.now_ns())]
    assert again, "nothing was diagnosed again after the store was back"
    assert again[-1].version == 2
    assert not any("does not answer" in text for text in again[-1].missing_telemetry)
