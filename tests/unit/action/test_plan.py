"""From a diagnosis to a plan."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headspring.action.plan.blast import blast_radius
from headspring.action.plan.build import build_plan, digest_of
from headspring.action.plan.checks import decode_check, encode_check
from headspring.action.plan.match import candidates
from headspring.action.runbooks.load import load_library
from headspring.action.runbooks.schema import Check
from headspring.knowledge.topology.graph import Edge, EdgeType, Topology
from headspring.proto import codec
from headspring.proto.action import Plan
from headspring.proto.detection import Severity
from headspring.proto.errors import ConfigError, PreconditionFailed
from headspring.proto.incident import CauseKind, Diagnosis, DiagnosisStatus, Hypothesis, Incident
from headspring.proto.telemetry import Change

CART, DB = "service:default/cart", "database:default/orders"
INCIDENT = Incident(incident_id="inc-1", tenant="default", severity=Severity.WARNING)
TOPOLOGY = Topology.of(
    [
        Edge(caller="gateway:default/front", callee=CART, weight=10.0),
        Edge(caller=CART, callee=DB, type=EdgeType.DATABASE, weight=30.0),
        Edge(caller=CART, callee="host:default/h1", type=EdgeType.RUNS_ON, weight=1000.0),
    ]
)
CHANGE = Change(change_id="ch-1", tenant="default", entity=CART, version="2", previous_version="1")


def _diagnosis(*hypotheses: Hypothesis, status: DiagnosisStatus = DiagnosisStatus.CONFIRMED) -> Diagnosis:
    return Diagnosis(incident_id="inc-1", tenant="default", status=status, hypotheses=hypotheses, changes=(CHANGE,))


def _cause(entity: str = CART, kind: CauseKind = CauseKind.ERRORS, change_id: str = "", p: float = 0.9) -> Hypothesis:
    return Hypothesis(entity=entity, kind=kind, probability=p, change_id=change_id)


def _names(diagnosis: Diagnosis) -> list[str]:
    return [match.runbook.name for match in candidates(diagnosis, INCIDENT, load_library())]


def _plan(name: str = "roll-back-deploy", **changed: object) -> Plan:
    cause = _cause(change_id="ch-1")
    arguments: dict[str, object] = {
        "hypothesis": cause, "diagnosis": _diagnosis(cause), "incident": INCIDENT, "topology": TOPOLOGY,
        "settings": {"ops_url": "http://ops:1"}, "requested_by": "headspring", "now_ns": 10**18,
        "expires_ns": 10**18 + 5, "previews": {},
    }  # fmt: skip
    return build_plan(load_library()[name], **(arguments | changed))  # type: ignore[arg-type]  # one place builds all


def test_a_blamed_change_is_rolled_back_before_anything_is_restarted() -> None:
    assert _names(_diagnosis(_cause(change_id="ch-1")))[0] == "roll-back-deploy"
    assert _names(_diagnosis(_cause()))[0] == "restart-service"
    assert "roll-back-deploy" not in _names(_diagnosis(_cause(change_id="ch-unknown")))


def test_a_slow_database_gets_the_runbook_made_for_databases() -> None:
    names = _names(_diagnosis(_cause(DB, CauseKind.LATENCY)))
    assert names[0] == "restart-database-service"
    assert "restart-service" not in names


def test_a_saturated_service_gets_more_replicas() -> None:
    assert _names(_diagnosis(_cause(kind=CauseKind.SATURATION)))[0] == "scale-out-service"


def test_reading_comes_after_everything_that_helps() -> None:
    assert _names(_diagnosis(_cause()))[-1] == "collect-evidence"


def test_an_honest_no_answer_gets_no_runbook() -> None:
    assert _names(_diagnosis(_cause(), status=DiagnosisStatus.INCONCLUSIVE)) == []
    assert _names(dataclasses.replace(_diagnosis(_cause()), none=True)) == []
    assert _names(_diagnosis(_cause(p=0.1))) == []
    assert _names(_diagnosis(_cause(kind=CauseKind.EXTERNAL))) == []


def test_the_likelier_cause_comes_first_within_one_runbook() -> None:
    found = candidates(_diagnosis(_cause(p=0.55), _cause("service:default/pay", p=0.8)), INCIDENT, load_library())
    restarts = [match.hypothesis.probability for match in found if match.runbook.name == "restart-service"]
    assert restarts == [0.8, 0.55]


def test_blast_radius_counts_request_edges_only() -> None:
    radius = blast_radius(TOPOLOGY, CART)
    assert radius.upstream == ("gateway:default/front",)
    assert radius.downstream == (DB, "host:default/h1")
    assert radius.traffic_share == pytest.approx(0.25)
    assert radius.level == "medium"
    assert blast_radius(TOPOLOGY, DB).level == "high"


def test_what_the_topology_does_not_know_is_not_called_harmless() -> None:
    assert blast_radius(Topology(), "service:default/new").level == "medium"


def test_a_plan_is_filled_in_completely() -> None:
    plan = _plan()
    assert plan.steps[0].arguments == {
        "method": "POST",
        "url": "http://ops:1/services/cart/rollback",
        "body": '{"version": "1"}',
        "preview_url": "http://ops:1/services/cart",
    }
    assert plan.rollback[0].arguments["body"] == '{"version": "2"}'
    assert plan.rollback[0].rollback_of == "roll-back"
    assert plan.digest == digest_of(plan)


def test_the_digest_survives_the_wire_and_ignores_dry_run_texts() -> None:
    plan = _plan()
    assert digest_of(codec.decode(Plan, codec.encode(plan))) == plan.digest
    assert _plan(previews={"roll-back": "200 {uptime: 5}"}).digest == plan.digest


def test_the_digest_covers_all_that_consent_is_about() -> None:
    plan = _plan()
    step = plan.steps[0]
    changed = [
        dataclasses.replace(plan, expires_ns=plan.expires_ns + 1),
        dataclasses.replace(plan, incident_id="inc-2"),
        dataclasses.replace(plan, tenant="other"),
        dataclasses.replace(plan, runbook_version="9"),
        dataclasses.replace(plan, validation=()),
        dataclasses.replace(plan, rollback=()),
        dataclasses.replace(plan, blast_radius=dataclasses.replace(plan.blast_radius, level="high")),
        dataclasses.replace(plan, blast_radius=dataclasses.replace(plan.blast_radius, targets=("x",))),
        dataclasses.replace(plan, steps=(dataclasses.replace(step, arguments={**step.arguments, "body": "{}"}),)),
        dataclasses.replace(plan, steps=(dataclasses.replace(step, executor="process"),)),
        dataclasses.replace(plan, steps=(step, step)),
        dataclasses.replace(plan, steps=plan.rollback, rollback=plan.steps),
    ]
    digests = {digest_of(one) for one in changed}
    assert len(digests) == len(changed)
    assert plan.digest not in digests


def test_a_plan_says_what_it_lacks() -> None:
    with pytest.raises(ConfigError, match="ops_url"):
        _plan(settings={})
    with pytest.raises(PreconditionFailed, match="previous_version"):
        _plan(diagnosis=dataclasses.replace(_diagnosis(_cause()), changes=()))


@given(
    query=st.text(min_size=1, max_size=60), threshold=st.floats(allow_nan=False, allow_infinity=False),
    comparator=st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), within_s=st.integers(1, 3600),
)  # fmt: skip
def test_a_check_survives_being_a_text(query: str, threshold: float, comparator: str, within_s: int) -> None:
    check = Check.model_validate(
        {"kind": "query", "query": query, "comparator": comparator, "threshold": threshold, "within_s": within_s}
    )
    assert decode_check(encode_check(check)) == check


def test_a_text_without_a_check_decodes_to_none() -> None:
    assert decode_check("all is well") is None
    assert decode_check("all is well ⟦{}⟧") is None
