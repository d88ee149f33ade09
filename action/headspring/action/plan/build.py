"""A plan: a runbook with everything filled in, and the digest that an approval is bound to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from headspring.action.plan.blast import blast_radius
from headspring.action.plan.checks import encode_check
from headspring.action.runbooks.render import render, render_url, values
from headspring.action.runbooks.schema import Runbook, Step
from headspring.knowledge.topology.graph import Topology
from headspring.proto.action import Plan, PlannedStep
from headspring.proto.ids import derived_id
from headspring.proto.incident import Diagnosis, Hypothesis, Incident

MAX_PREVIEW_CHARS = 4_000
"""Characters of a dry-run kept in a plan: what a person reads before approving."""


def build_plan(
    runbook: Runbook, *, hypothesis: Hypothesis, diagnosis: Diagnosis, incident: Incident, topology: Topology,
    settings: Mapping[str, str], requested_by: str, now_ns: int, expires_ns: int, previews: Mapping[str, str],
) -> Plan:  # fmt: skip
    """The plan of a runbook for one hypothesis. The same arguments give the same plan, id included.

    Args:
        previews: Dry-run texts by step id; shown, never part of the digest.

    Raises:
        ConfigError: a setting that the runbook needs is missing.
        PreconditionFailed: this incident lacks a value that the runbook needs.
    """
    known = values(hypothesis=hypothesis, diagnosis=diagnosis, incident=incident, settings=settings)

    def planned(steps: Sequence[Step]) -> tuple[PlannedStep, ...]:
        return tuple(_planned(step, known, hypothesis.entity, previews) for step in steps)

    undone = ",".join(step.id for step in runbook.steps)
    plan = Plan(
        plan_id=derived_id(
            "plan", now_ns, incident.tenant, incident.incident_id, runbook.name, hypothesis.entity, requested_by
        ),
        tenant=incident.tenant,
        incident_id=incident.incident_id,
        runbook=runbook.name,
        runbook_version=runbook.version,
        title=runbook.title,
        steps=planned(runbook.steps),
        rollback=tuple(replace(step, rollback_of=undone) for step in planned(runbook.rollback)),
        validation=tuple(encode_check(check) for check in runbook.validate_),
        blast_radius=blast_radius(topology, hypothesis.entity),
        risk=runbook.risk,
        requested_by=requested_by,
        created_ns=now_ns,
        expires_ns=expires_ns,
        cause_entity=hypothesis.entity,
    )
    return replace(plan, digest=digest_of(plan))


def digest_of(plan: Plan) -> str:
    """sha256, in hex, of what an approval consents to. Dry-run texts and traffic figures move by themselves and are
    left out; the level and the targets of the blast radius are in."""
    content = {
        "incident": plan.incident_id,
        "tenant": plan.tenant,
        "runbook": plan.runbook,
        "version": plan.runbook_version,
        "risk": plan.risk,
        "cause": plan.cause_entity,
        "steps": [_content(step) for step in plan.steps],
        "rollback": [_content(step) for step in plan.rollback],
        "validation": list(plan.validation),
        "blast": {"targets": list(plan.blast_radius.targets), "level": plan.blast_radius.level},
        "expires_ns": str(plan.expires_ns),
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _content(step: PlannedStep) -> Mapping[str, object]:
    return {
        "id": step.step_id,
        "name": step.name,
        "executor": step.executor,
        "target": step.target,
        "arguments": dict(step.arguments),
        "idempotent": step.idempotent,
    }


def _planned(step: Step, known: Mapping[str, str], target: str, previews: Mapping[str, str]) -> PlannedStep:
    arguments = {name: render(name, value, known) for name, value in step.with_.items()}
    if step.uses == "http":
        arguments.setdefault("method", "POST")
        if step.preview is not None:
            arguments["preview_url"] = render_url(step.preview["url"], known)
    return PlannedStep(
        step_id=step.id,
        name=render("name", step.name, known),
        executor=step.uses,
        target=target,
        arguments=arguments,
        preview=previews.get(step.id, "")[:MAX_PREVIEW_CHARS],
        idempotent=step.idempotent,
    )
