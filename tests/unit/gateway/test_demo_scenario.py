"""The demo's judge says yes only when every expectation holds, and names each that does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from headspring.gateway.demo import estate
from headspring.gateway.demo.command import main
from headspring.gateway.demo.scenario import BY_NAME, SCENARIOS, Judge, Past
from headspring.gateway.demo.supervisor import Crash, Delay, Deploy, Error, Name
from headspring.proto.errors import ConfigError

_BODIES: dict[str, type[BaseModel]] = {"delay": Delay, "error": Error, "crash": Crash, "deploy": Deploy}
_DONE = [{"service": "payment", "operation": "restart"}]


def _detail(
    cause: str = "service:default/payment", *, incident: str = "inc_1", state: str = "resolved",
    status: str = "likely", run: str = "succeeded", overall: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    return {
        "incident": {"incident_id": incident, "state": state, "title": "payment is slow", "members": [{}, {}]},
        "diagnosis": {
            "status": overall or status,
            "hypotheses": [
                {"entity": cause, "probability": 0.9, "status": status, "evidence": [{"summary": "self time"}]}
            ],
        },
        "runs": [
            {
                "run_id": f"run_{incident}", "state": run,
                "plan": {"runbook": "restart", "digest": "d1", "cause_entity": cause, "steps": [{"name": "restart"}]},
            }
        ],
    }  # fmt: skip


@pytest.fixture
def judge() -> Judge:
    return Judge(BY_NAME["payment-delay"])


def test_a_right_cause_a_succeeded_run_and_a_resolved_incident_satisfy_the_judge(judge: Judge) -> None:
    judge.see([_detail()])
    assert judge.done
    assert judge.shortcomings(_DONE, []) == []


def test_nothing_at_all_is_a_shortcoming(judge: Judge) -> None:
    judge.see([])
    assert judge.shortcomings([], []) == ["no incident names service:default/payment as its top cause"]


def test_a_wrong_top_cause_is_named(judge: Judge) -> None:
    judge.see([_detail("service:default/checkout")])
    assert not judge.done
    assert any("blames service:default/checkout" in problem for problem in judge.shortcomings(_DONE, []))


def test_an_inconclusive_diagnosis_is_not_enough(judge: Judge) -> None:
    judge.see([_detail(status="inconclusive")])
    assert not judge.done
    assert any("inconclusive" in problem for problem in judge.shortcomings(_DONE, []))


def test_an_inconclusive_diagnosis_with_a_likely_hypothesis_is_not_enough(judge: Judge) -> None:
    judge.see([_detail(overall="inconclusive")])
    assert not judge.done


def test_a_second_incident_that_blames_something_else_is_a_shortcoming(judge: Judge) -> None:
    judge.see([_detail(), _detail("service:default/storefront", incident="inc_2")])
    assert judge.shortcomings(_DONE, []) == [
        "incident inc_2 blames service:default/storefront, wanted service:default/payment"
    ]


def test_a_merged_incident_does_not_count(judge: Judge) -> None:
    judge.see([_detail(), _detail("service:default/storefront", incident="inc_2", state="merged")])
    assert judge.shortcomings(_DONE, []) == []


@pytest.mark.parametrize("run", ["waiting_approval", "rolled_back", "failed", "voided"])
def test_a_run_that_did_not_succeed_is_a_shortcoming(judge: Judge, run: str) -> None:
    judge.see([_detail(run=run)])
    assert any(f"is {run}, wanted succeeded" in problem for problem in judge.shortcomings(_DONE, []))


def test_a_run_that_succeeded_without_the_shop_being_asked_is_a_shortcoming(judge: Judge) -> None:
    judge.see([_detail()])
    assert any("asked for nothing" in problem for problem in judge.shortcomings([], []))


def test_a_shop_that_is_still_faulty_is_a_shortcoming(judge: Judge) -> None:
    judge.see([_detail()])
    assert judge.shortcomings(_DONE, ["payment"]) == ["the shop is still faulty: payment"]


def test_a_run_is_approvable_only_for_the_right_cause(judge: Judge) -> None:
    judge.see([_detail(state="open", run="waiting_approval")])
    found = judge.found["service:default/payment"]
    assert found.approvable
    assert found.digest == "d1"
    judge.see([_detail("service:default/checkout", state="open", run="waiting_approval")])
    assert not any(found.approvable and found.run_cause != found.cause for found in judge.found.values())


def test_a_diagnosis_that_changes_its_mind_before_it_commits_is_followed() -> None:
    judge = Judge(BY_NAME["two-faults"])
    judge.see([_detail("service:default/catalogue", status="inconclusive", state="open")])
    judge.see([_detail("service:default/payment", state="open")])
    assert judge.found["service:default/payment"].incident_id == "inc_1"
    assert judge.found["service:default/catalogue"].incident_id == ""


def test_two_faults_need_an_incident_each() -> None:
    judge = Judge(BY_NAME["two-faults"])
    judge.see([_detail()])
    assert not judge.done
    judge.see([_detail(), _detail("service:default/catalogue", incident="inc_2")])
    assert judge.done


def test_an_incident_of_an_earlier_demo_counts_once_it_has_come_back_and_only_with_new_runs(judge: Judge) -> None:
    old = _detail("service:default/inventory")
    past = Past.of([old])
    assert past.ended([old["incident"]]) == {"inc_1"}
    back = _detail(state="investigating", run="waiting_approval")
    again = {**back, "runs": [*old["runs"], {**back["runs"][0], "run_id": "run_2"}]}
    assert past.ended([again["incident"]]) == set()
    judge.see(past.since([again]))
    assert [(found.run_id, found.run_state) for found in judge.found.values()] == [("run_2", "waiting_approval")]
    ended = _detail()
    assert past.ended([ended["incident"]]) == set(), "it stays ours"
    judge.see(past.since([{**ended, "runs": [*old["runs"], {**ended["runs"][0], "run_id": "run_2"}]}]))
    assert judge.done


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: str(scenario.name))
def test_every_scenario_asks_for_faults_the_supervisor_takes(scenario: Any) -> None:
    for fault in scenario.faults:
        _BODIES[fault.kind].model_validate(dict(fault.body))


def test_the_api_knows_the_names_of_the_estate() -> None:
    assert get_args(Name) == estate.NAMES


def test_every_call_of_the_estate_leads_to_a_route() -> None:
    routes = {(service.name, route.method, route.path) for service in estate.SHOP for route in service.routes}
    calls = {call for service in estate.SHOP for route in service.routes for call in route.calls}
    assert calls <= routes


def test_an_unknown_scenario_is_a_usage_error_that_lists_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("meteor", True, False, None, 1.0) == 2
    assert "payment-delay" in capsys.readouterr().err


def test_without_the_shops_packages_the_demo_says_what_to_install_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(ConfigError, match=r"pip install 'headspring\[shop\]'"):
        main("payment-delay", True, False, tmp_path / "data")
    assert not (tmp_path / "data").exists()
