"""The correlation stage: versions of incidents from alerts, changes, actions and feedback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from headspring.analytics.correlate.lifecycle import TRANSITIONS, Happening, after
from headspring.analytics.correlate.stage import CorrelateConfig, CorrelateStage
from headspring.knowledge.topology.graph import Edge, Node, Topology
from headspring.proto import codec, semantics
from headspring.proto.action import ActionEvent, Feedback, RunState
from headspring.proto.clock import NS_PER_S, ManualClock
from headspring.proto.detection import Alert, AlertStatus, Severity
from headspring.proto.errors import ConfigError, ContractError
from headspring.proto.incident import Incident, IncidentState
from headspring.proto.telemetry import Change, ChangeKind
from headspring.proto.topics import ACTIONS, ALERTS, CHANGES, FEEDBACK, INCIDENTS, record_key
from headspring.streaming.engine.port import Outgoing
from headspring.streaming.log.port import Record, StoredRecord

START_S = 1_000_000
TOPICS = {Alert: ALERTS.name, Change: CHANGES.name, ActionEvent: ACTIONS.name, Feedback: FEEDBACK.name}


class Fixed:
    """A topology that does not change."""

    def __init__(self, *pairs: str) -> None:
        self._topology = Topology.of([Edge(caller=entity(pair[0]), callee=entity(pair[1])) for pair in pairs])

    def observe(self, tenant: str, edges: Sequence[Edge], nodes: Sequence[Node] = ()) -> None:
        raise AssertionError("correlation does not write the topology")

    replace_configured = observe

    def snapshot(self, tenant: str, *, at_ns: int) -> Topology:
        return self._topology


class House:
    """A stage with its clock."""

    def __init__(self, **config: Any) -> None:
        self.clock = ManualClock(start_ns=START_S * NS_PER_S)
        self.graph = Fixed("AB", "AC")
        self.config = CorrelateConfig(**config)
        self.stage = CorrelateStage(clock=self.clock, topology=self.graph, config=self.config)

    def say(self, *messages: Any) -> list[Incident]:
        out: list[Incident] = []
        for message in messages:
            topic = TOPICS[type(message)]
            stored = StoredRecord(
                topic=topic, partition=0, offset=0, record=Record(key=b"", value=codec.encode(message), time_ns=0)
            )
            out += incidents(asyncio.run(self.stage.process(topic, [stored])))
        return out

    def wait(self, seconds: float) -> list[Incident]:
        self.clock.advance(seconds)
        return incidents(asyncio.run(self.stage.tick(self.clock.now_ns())))

    def alert(self, name: str, letter: str, **more: Any) -> Alert:
        starts_ns = more.pop("starts_ns", self.clock.now_ns())
        more.setdefault("metric", semantics.SERVICE_ERROR_RATIO)
        return Alert(
            alert_id=f"al-{name}-{letter}",
            tenant="default",
            fingerprint=f"{name}-{letter}",
            entity=entity(letter),
            name=name,
            starts_ns=starts_ns,
            source="detect.basic",
            **more,
        )


def entity(letter: str) -> str:
    return f"service:default/{letter}"


def incidents(records: Sequence[Outgoing]) -> list[Incident]:
    found = [codec.decode(Incident, record.value) for record in records]
    for record, incident in zip(records, found, strict=True):
        assert record.topic == INCIDENTS.name
        assert record.key == record_key(incident.tenant, incident.incident_id)
    return found


def ended(alert: Alert) -> Alert:
    return replace(alert, status=AlertStatus.RESOLVED, ends_ns=alert.starts_ns + NS_PER_S)


def test_the_first_alert_opens_an_incident_at_once() -> None:
    house = House()
    (incident,) = house.say(house.alert("errors", "B", severity=Severity.ERROR))
    assert (incident.state, incident.version, incident.severity) == (IncidentState.OPEN, 1, Severity.ERROR)
    assert incident.title == "Errors at B"
    assert incident.entities == (entity("B"),)
    assert incident.members[0].representative
    assert not incident.members[0].suppressed


def test_the_title_does_not_depend_on_the_order_in_which_alerts_of_one_moment_come() -> None:
    titles = set()
    for order in ("XWB", "WXB", "BXW", "BWX"):
        house = House()
        house.graph = Fixed("XB", "WB")
        house.stage = CorrelateStage(clock=house.clock, topology=house.graph, config=house.config)
        titles.add(house.say(*(house.alert("errors", letter) for letter in order))[-1].title)
    assert titles == {"Errors at B, felt at W, X"}


def test_a_symptom_at_the_caller_joins_and_the_callee_is_shown() -> None:
    house = House()
    caller = house.alert("errors", "A", severity=Severity.CRITICAL)
    (incident,) = house.say(caller, house.alert("errors", "B"))[-1:]
    shown = [member for member in incident.members if member.representative]
    assert [member.alert.entity for member in shown] == [entity("B")]
    assert incident.title == "Errors at B, felt at A"
    assert incident.severity is Severity.CRITICAL
    hidden = next(member for member in incident.members if member.suppressed)
    assert hidden.alert.marks[-1].rule == "child"


def test_the_same_alerts_make_the_same_id_again() -> None:
    one, other = House(), House()
    assert one.say(one.alert("errors", "B"))[0].incident_id == other.say(other.alert("errors", "B"))[0].incident_id


def test_a_repeat_of_a_known_alert_updates_its_member_and_says_nothing_when_nothing_changed() -> None:
    house = House()
    alert = house.alert("errors", "B")
    house.say(alert)
    assert house.say(alert) == []
    (incident,) = house.say(replace(alert, severity=Severity.CRITICAL))
    assert (incident.version, incident.severity, len(incident.members)) == (2, Severity.CRITICAL, 1)


def test_it_settles_after_the_last_alert_ended_and_then_resolves() -> None:
    house = House(settle_s=15)
    first, second = house.alert("errors", "B"), house.alert("errors", "A")
    house.say(first, second)
    assert house.say(ended(first))[-1].state is IncidentState.OPEN
    assert house.say(ended(second))[-1].state is IncidentState.SETTLING
    assert house.wait(14) == []
    (incident,) = house.wait(1)
    assert incident.state is IncidentState.RESOLVED
    assert incident.resolved_ns == house.clock.now_ns()


def test_a_relapse_while_settling_opens_it_again() -> None:
    house = House()
    alert = house.alert("errors", "B")
    house.say(alert, ended(alert))
    (incident,) = house.say(alert)
    assert incident.state is IncidentState.OPEN
    assert incident.timeline[-1].text.endswith("fires again")


def test_an_alert_that_comes_already_ended_still_passes() -> None:
    house = House()
    (incident,) = house.say(ended(house.alert("errors", "B")))
    assert incident.state is IncidentState.SETTLING


def test_two_faults_are_published_as_two_incidents() -> None:
    house = House()
    house.say(house.alert("errors", "B"))
    house.clock.advance(2)
    house.say(house.alert("errors", "A"))
    house.clock.advance(2)
    house.say(house.alert("errors", "C"))
    out = house.wait(12)
    latest = {incident.incident_id: incident for incident in out}
    assert sorted(incident.entities for incident in latest.values()) == [(entity("B"), entity("A")), (entity("C"),)]


def test_acknowledging_action_and_its_end_move_the_state() -> None:
    house = House()
    (incident,) = house.say(house.alert("errors", "B"))
    said = Feedback(
        feedback_id="f", tenant="default", subject=incident.incident_id, subject_kind="incident",
        verdict="acknowledge", actor="ana", time_ns=house.clock.now_ns(),
    )  # fmt: skip
    (incident,) = house.say(said)
    assert incident.state is IncidentState.ACKNOWLEDGED
    assert incident.timeline[-1].actor == "ana"
    event = ActionEvent(
        event_id="e", tenant="default", run_id="r", incident_id=incident.incident_id, runbook="restart",
        state=RunState.EXECUTING, time_ns=house.clock.now_ns(), actor="ana",
    )  # fmt: skip
    assert house.say(event)[-1].state is IncidentState.MITIGATING
    (incident,) = house.say(replace(event, event_id="e2", state=RunState.SUCCEEDED))
    assert incident.state is IncidentState.ACKNOWLEDGED
    assert [entry.ref for entry in incident.timeline if entry.kind == "action"] == ["r", "r"]


def test_changes_near_an_incident_are_in_its_timeline_and_far_ones_are_not() -> None:
    house = House()
    change = Change(
        change_id="c1", tenant="default", entity=entity("B"), kind=ChangeKind.DEPLOY, time_ns=house.clock.now_ns()
    )
    house.say(change, replace(change, change_id="c2", entity=entity("Z")))
    house.clock.advance(30)
    (incident,) = house.say(house.alert("errors", "B"))
    assert [entry.ref for entry in incident.timeline if entry.kind == "change"] == ["c1"]


def test_people_split_and_merge_incidents() -> None:
    house = House()
    house.say(house.alert("errors", "B"))
    (incident,) = house.say(house.alert("errors", "A"))
    fresh = house.stage.split("default", incident.incident_id, ["al-errors-A"], actor="ana")
    out = {one.incident_id: one for one in house.wait(1)}
    assert out[fresh].entities == (entity("A"),)
    assert out[incident.incident_id].entities == (entity("B"),)
    assert house.stage.merge("default", fresh, incident.incident_id, actor="ana")
    out = {one.incident_id: one for one in house.wait(1)}
    assert out[fresh].state is IncidentState.MERGED
    assert out[fresh].merged_into == incident.incident_id
    assert out[incident.incident_id].aliases == (fresh,)
    assert len(out[incident.incident_id].members) == 2
    (news,) = house.say(ended(house.alert("errors", "A")))
    assert news.incident_id == incident.incident_id


def test_splitting_off_everything_or_nothing_is_refused() -> None:
    house = House()
    (incident,) = house.say(house.alert("errors", "B"))
    assert house.stage.split("default", incident.incident_id, ["al-errors-B"], actor="ana") == ""
    assert house.stage.split("default", incident.incident_id, ["nothing"], actor="ana") == ""


def test_information_alone_opens_no_incident_but_joins_one() -> None:
    house = House()
    assert house.say(house.alert("note", "B", severity=Severity.INFO)) == []
    (incident,) = house.say(house.alert("errors", "B"))
    assert len(incident.members) == 2
    assert any(mark.rule == "informational" for mark in incident.members[0].alert.marks)


def test_an_incident_nobody_hears_of_is_closed_in_the_end() -> None:
    house = House(stale_s=3600)
    house.say(house.alert("errors", "B"))
    assert house.wait(3500) == []
    (incident,) = house.wait(200)
    assert incident.state is IncidentState.RESOLVED


def test_a_restored_stage_goes_on_where_it_was() -> None:
    house = House()
    alert = house.alert("errors", "B")
    house.say(alert)
    state = house.stage.snapshot()
    house.stage = CorrelateStage(clock=house.clock, topology=house.graph, config=house.config)
    house.stage.restore(state)
    assert house.stage.snapshot() == state
    (incident,) = house.say(ended(alert))
    assert (incident.version, incident.state) == (2, IncidentState.SETTLING)


def test_a_snapshot_of_the_version_before_is_read() -> None:
    house = House()
    alert = house.alert("errors", "B")
    house.say(alert)
    now = house.stage.snapshot()
    old = json.loads(now)
    assert old["format"] == 2
    old["format"] = 1
    (tenant,) = old["tenants"].values()
    for record in tenant["records"]:
        record["members"] = [json.loads(text) for text in record["members"]]
        record["timeline"] = [
            dict(zip(("time_ns", "kind", "text", "actor", "ref"), row, strict=True)) for row in record["timeline"]
        ]
        assert record["timeline"]
    for _, family in tenant["kernel"]["families"]:
        names = ("onset_ns", "last_ns", "alerts", "rank", "causal", "pressed", "symptom")
        family["evidence"] = {entity: dict(zip(names, row, strict=True)) for entity, row in family["evidence"].items()}
        assert family["evidence"]
    house.stage.restore(json.dumps(old).encode())
    assert house.stage.snapshot() == now


def test_tenants_do_not_meet() -> None:
    house = House()
    one = house.say(house.alert("errors", "B"))[0]
    other = house.say(replace(house.alert("errors", "A"), tenant="other"))[0]
    assert one.incident_id != other.incident_id
    assert len(other.members) == 1


def test_memory_of_incidents_is_bounded() -> None:
    house = House(max_incidents=5)
    for number in range(20):
        house.clock.advance(400)
        alert = house.alert(f"errors{number}", "B")
        house.say(alert, ended(alert))
        house.wait(20)
    assert house.stage.snapshot().count(b'"incident_id"') <= 6


def test_bytes_that_are_no_alert_and_settings_that_cannot_be_are_refused() -> None:
    house = House()
    broken = StoredRecord(
        topic=ALERTS.name, partition=0, offset=0, record=Record(key=b"", value=b"\xff\xff", time_ns=0)
    )
    with pytest.raises(ContractError):
        asyncio.run(house.stage.process(ALERTS.name, [broken]))
    with pytest.raises(ConfigError, match="settle_s"):
        CorrelateStage(clock=house.clock, topology=house.graph, config=CorrelateConfig(settle_s=-1))


def test_the_table_of_states_never_leaves_merged() -> None:
    assert all(state is not IncidentState.MERGED for state, _ in TRANSITIONS)
    assert after(IncidentState.OPEN, Happening.SETTLED) is IncidentState.OPEN
