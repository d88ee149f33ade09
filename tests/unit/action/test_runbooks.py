"""Reading, checking and filling in runbooks."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import pytest

from headspring.action.runbooks import load
from headspring.action.runbooks.conditions import check_condition, holds
from headspring.action.runbooks.render import references, render, render_url, values
from headspring.proto.errors import ConfigError, PreconditionFailed
from headspring.proto.incident import CauseKind, Diagnosis, Hypothesis, Incident
from headspring.proto.telemetry import Change

GOOD = """\
name: bounce
version: "1.0"
title: Bounce it
match:
  cause_kinds: [crash]
risk: low
steps:
  - id: one
    name: Bounce ${{ cause.name }}
    uses: http
    with:
      url: ${{ settings.ops_url }}/services/${{ cause.name }}/restart
validate:
  - kind: alerts_cleared
"""

INCIDENT = Incident(incident_id="inc-1", tenant="default")
CAUSE = Hypothesis(entity="service:default/cart", kind=CauseKind.ERRORS, probability=0.9, change_id="ch-1")
DIAGNOSIS = Diagnosis(
    incident_id="inc-1",
    tenant="default",
    hypotheses=(CAUSE,),
    changes=(Change(change_id="ch-1", tenant="default", version="2", previous_version="1"),),
)


def _holds(text: str) -> bool:
    return holds(text, hypothesis=CAUSE, diagnosis=DIAGNOSIS, incident=INCIDENT)


def test_the_packaged_library_is_clean_and_covers_every_common_cause() -> None:
    library = load.load_library()
    assert len(library) >= 6
    covered = {kind for runbook in library.values() for kind in runbook.match.cause_kinds}
    assert covered >= set(CauseKind) - {CauseKind.UNSPECIFIED, CauseKind.EXTERNAL}
    assert all(runbook.description for runbook in library.values())


def test_a_good_runbook_has_no_problems() -> None:
    assert load.lint(GOOD, "a.yaml") == []
    assert load.parse(GOOD, "a.yaml").approval.roles == ["operator"]


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("risk: low", "risk: tiny", 6, "'low', 'medium' or 'high'"),
        ("    uses: http", "    uses: shell", 10, "'http' or 'process'"),
        ("title: Bounce it", "title: Bounce it\nsurprise: 1", 4, "Extra inputs"),
        ("${{ cause.name }}/restart", "${{ cause.nmae }}/restart", 12, "cause.nmae"),
        ("cause_kinds: [crash]", "cause_kinds: [crash]\n  condition: cause.", 6, "does not parse"),
        ("cause_kinds: [crash]", "cause_kinds: [crash]\n  condition: env.HOME == ''", 6, "'env'"),
        (
            "cause_kinds: [crash]",
            "cause_kinds: [crash]\n  condition: >-\n    incident.alerts.all(a, incident.alerts.all(b,"
            " incident.alerts.all(c, true)))",
            6,
            "3 deep inside one another",
        ),
        ('version: "1.0"', "version: 1.0", 2, "quoted text"),
        ("      url: ${{ settings.ops_url }}/", "      url: http://${{ cause.name }}/", 12, "starts with a setting"),
        ("      url: ${{ settings.ops_url }}/", "      url: ${{ settings.ops_url }}.evil.org/", 12, "goes on with '/'"),
        ("validate:\n  - kind: alerts_cleared\n", "", 1, "needs 'validate'"),
        ("risk: low", "risk: low\nrisk: high", 7, "duplicate key"),
    ],
)
def test_a_mistake_is_shown_where_it_stands(old: str, new: str, line: int, words: str) -> None:
    assert old in GOOD
    problems = load.lint(GOOD.replace(old, new), "a.yaml")
    assert any(problem.line == line and words in problem.message for problem in problems), problems


def test_aliases_tags_several_documents_and_deep_nesting_are_refused() -> None:
    for text in (
        "a: &x [1]\nb: *x",
        "a: 1\n---\nb: 2",
        "[" * 5_000,
        "!!python/object:os.system {}",
        "",
        "a: 2001-99-99",
    ):
        assert load.lint(text, "a.yaml"), text


def test_a_file_above_the_size_limit_is_refused_before_it_is_parsed() -> None:
    assert "bytes" in load.lint("#" * (load.MAX_BYTES + 1), "a.yaml")[0].message


def test_an_own_runbook_wins_over_a_packaged_one_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD.replace("bounce", "restart-service"))
    assert load.load_library(tmp_path)["restart-service"].title == "Bounce it"
    (tmp_path / "twice.yaml").write_text(GOOD.replace("bounce", "restart-service"))
    with pytest.raises(ConfigError, match="is taken by"):
        load.load_library(tmp_path)


def test_values_come_from_the_cause_its_change_and_the_settings() -> None:
    known = values(hypothesis=CAUSE, diagnosis=DIAGNOSIS, incident=INCIDENT, settings={"ops_url": "http://ops:1"})
    assert known["cause.name"] == "cart"
    assert known["change.previous_version"] == "1"
    body = render("body", {"version": "${{ change.version }}", "force": True}, known)
    assert json.loads(body) == {"version": "2", "force": True}


def test_a_value_cannot_break_out_of_its_place() -> None:
    known = {"cause.name": 'a"/../?b#${{ incident.id }} -x', "settings.ops_url": "http://ops:1/api/"}
    url = render_url("${{ settings.ops_url }}/services/${{ cause.name }}", known)
    assert url == "http://ops:1/api/services/a%22%2F..%2F%3Fb%23%24%7B%7B%20incident.id%20%7D%7D%20-x"
    assert json.loads(render("body", {"name": "${{ cause.name }}"}, known)) == {"name": known["cause.name"]}
    assert json.loads(render("argv", ["/bin/x", "${{ cause.name }}"], known)) == ["/bin/x", known["cause.name"]]


@pytest.mark.parametrize("name", ["..", ".", "a\nb", "a\x00b", "x" * 600, ""])
def test_a_value_that_cannot_stand_in_an_address_is_refused(name: str) -> None:
    with pytest.raises(PreconditionFailed):
        render_url("http://ops:1/services/${{ cause.name }}", {"cause.name": name})


def test_a_value_cannot_become_an_option_of_a_program() -> None:
    with pytest.raises(PreconditionFailed, match="option"):
        render("argv", ["/bin/x", "${{ cause.name }}"], {"cause.name": "--force"})


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match="ops_url"):
        render_url("${{ settings.ops_url }}/x", {})
    with pytest.raises(PreconditionFailed, match=r"change\.previous_version"):
        render("body", {"version": "${{ change.previous_version }}"}, {})
    with pytest.raises(ConfigError, match="unknown reference"):
        references("${{ env.HOME }}")
    with pytest.raises(ConfigError, match="not closed"):
        references("${{ cause.name }")


def test_conditions_see_the_cause_and_the_incident() -> None:
    assert _holds("")
    assert _holds("cause.probability > 0.8 && incident.severity == 'warning' && cause.has_change")
    assert not _holds("incident.entities.exists(e, e == cause.entity)")
    with pytest.raises(PreconditionFailed, match="true or false"):
        _holds("cause.name")
    with pytest.raises(PreconditionFailed, match="cannot be evaluated"):
        _holds("cause.nothing == 1")


def test_conditions_are_small() -> None:
    with pytest.raises(ConfigError, match="characters"):
        check_condition("true" + " && true" * 400)
    with pytest.raises(ConfigError, match="walks lists"):
        check_condition(" && ".join(["incident.alerts.all(a, true)"] * 4))


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("incident.alerts.all(a, incident.alerts.all(b, incident.alerts.all(c, true)))", "3 deep"),
        ("incident.alerts . map\n( a , // )\n incident.alerts.filter(b, incident.alerts.exists(c, true)))", "3 deep"),
        ("incident.alerts.all(a, a != ')' && incident.alerts.all(b, incident.alerts.all(c, true)))", "3 deep"),
        ("incident.alerts.all(a, a != r'\\' && incident.alerts.all(b, incident.alerts.all(c, true)))", "3 deep"),
        ("(incident.entities + incident.entities).all(a, a != cause.name)", "joins lists"),
        ("incident.alerts.map(a, incident.alerts+incident.alerts).all(b, b.all(c, c != ''))", "joins lists"),
    ],
)
def test_a_condition_whose_work_grows_too_fast_is_refused(condition: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_condition(condition)


@pytest.mark.parametrize(
    "condition",
    [
        "incident.entities.all(a, incident.entities.all(b, a != '' && b != '')) && incident.title != '(('",
        "incident.entities.filter(a, a != '').map(b, b).all(c, c != '+')",
        "cause.name + '-db' != 'orders-db' && incident.alert_count + 1 > 0",
    ],
)
def test_a_condition_whose_work_stays_small_is_taken_and_quick(condition: str) -> None:
    large = dataclasses.replace(INCIDENT, entities=tuple(f"service:default/s{number}" for number in range(300)))
    began = time.process_time()
    assert holds(condition, hypothesis=CAUSE, diagnosis=DIAGNOSIS, incident=large)
    assert time.process_time() - began < 0.5
