"""Commands that ask a running platform: incidents, one incident, approve, reject, runbooks."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from headspring.gateway.cli.output import Format, plain, show
from headspring.proto.clock import NS_PER_S
from headspring.proto.ids import entity_name

Url = Annotated[str | None, typer.Option(envvar="HEADSPRING_URL", help="address of the platform")]
Key = Annotated[str | None, typer.Option(envvar="HEADSPRING_API_KEY", help="API key", show_envvar=True)]
Output = Annotated[Format, typer.Option("-o", "--output", help="table, json or yaml")]


def _when(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / NS_PER_S, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if time_ns else ""


def incidents(
    state: Annotated[list[str] | None, typer.Option(help="open, acknowledged, mitigating, settling, resolved")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    url: Url = None,
    key: Key = None,
    output: Output = Format.TABLE,
) -> None:
    """Incidents, newest first."""
    from headspring.gateway.cli.client import Remote

    found = list(Remote(url, key).pages("/incidents", limit=limit, state=state))
    if output is not Format.TABLE:
        show(found, output)
        return
    show([row(item) for item in found], output)


def row(incident: dict[str, Any]) -> dict[str, Any]:
    """One line of a list of incidents."""
    return {
        "id": incident["incident_id"], "state": incident["state"], "severity": incident["severity"],
        "opened": _when(incident["opened_ns"]), "alerts": len(incident["members"]), "title": incident["title"],
    }  # fmt: skip


def incident(
    incident_id: Annotated[str, typer.Argument(help="id from `headspring incidents`")],
    url: Url = None,
    key: Key = None,
    output: Output = Format.TABLE,
) -> None:
    """One incident: cause, evidence, path, what was ruled out, runs."""
    from headspring.gateway.cli.client import Remote

    found = Remote(url, key).get(f"/incidents/{incident_id}")
    if output is not Format.TABLE:
        show(found, output)
        return
    for line in _lines(found):
        print(plain(line))


def _lines(found: dict[str, Any]) -> list[str]:
    item, diagnosis = found["incident"], found["diagnosis"]
    lines = [
        item["title"],
        f"  {item['state']}, {item['severity']}, opened {_when(item['opened_ns'])}, {len(item['members'])} alerts",
    ]
    if diagnosis is None:
        lines.append("No diagnosis yet.")
    elif diagnosis["none"] or not diagnosis["hypotheses"]:
        lines.append(f"Nothing known here is to blame. {diagnosis['would_settle']}")
    for number, cause in enumerate((diagnosis or {}).get("hypotheses", ()), start=1):
        lines.append(
            f"{number}. {entity_name(cause['entity'])}: {cause['kind']}, {cause['probability']:.0%}, "
            f"{cause['status'].upper()}. {cause['summary']}"
        )
        if cause["path"]:
            lines.append("   path: " + " → ".join(entity_name(entity) for entity in cause["path"]))
        lines += [f"   - {evidence['summary']}" for evidence in cause["evidence"]]
        if cause["why_not"]:
            lines.append(f"   why not: {cause['why_not']}")
    for cause in (diagnosis or {}).get("ruled_out", ()):
        lines.append(f"Ruled out: {entity_name(cause['entity'])}: {cause['why_not']}")
    for run in found["runs"]:
        lines.append(f"Run {run['run_id']}: {run['runbook']}, {run['state']}")
    return lines


def approve(
    run_id: Annotated[str, typer.Argument(help="id of the run")],
    digest: Annotated[
        str, typer.Option(help="digest of the plan you read; without it the plan is shown and asked")
    ] = "",
    comment: str = "",
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    url: Url = None,
    key: Key = None,
    output: Output = Format.TABLE,
) -> None:
    """Approves exactly the plan that is shown."""
    _decide("approve", run_id, digest, comment, yes, url, key, output)


def reject(
    run_id: Annotated[str, typer.Argument(help="id of the run")],
    comment: str = "",
    url: Url = None,
    key: Key = None,
    output: Output = Format.TABLE,
) -> None:
    """Refuses a plan; nothing is done."""
    _decide("reject", run_id, "", comment, True, url, key, output)


def freeze(url: Url = None, key: Key = None, output: Output = Format.TABLE) -> None:
    """Stops all automation at once: steps under way end, no other step starts until `headspring thaw`."""
    _automation(True, url, key, output)


def thaw(url: Url = None, key: Key = None, output: Output = Format.TABLE) -> None:
    """Lets automation go on after `headspring freeze`."""
    _automation(False, url, key, output)


def _automation(frozen: bool, url: str | None, key: str | None, output: Format) -> None:
    from headspring.gateway.cli.client import Remote

    show(Remote(url, key).put("/automation", {"frozen": frozen}), output)


def _decide(
    verb: str, run_id: str, digest: str, comment: str, yes: bool, url: str | None, key: str | None, output: Format
) -> None:
    from headspring.gateway.cli.client import Remote

    remote = Remote(url, key)
    if not digest:
        plan = remote.get(f"/runs/{run_id}")["plan"]
        digest = plan["digest"]
        for line in (
            f"{plan['title']} (runbook {plan['runbook']}, risk {plan['risk']})",
            *[f"  step {step['name']}: {step['preview']}" for step in plan["steps"]],
            *[f"  rollback {step['name']}: {step['preview']}" for step in plan["rollback"]],
            f"  touches {', '.join(plan['blast_radius']['targets'])}; blast radius {plan['blast_radius']['level']}",
        ):
            print(plain(line), file=sys.stderr)
        if not yes and not typer.confirm(f"{verb} this plan?", err=True):
            raise typer.Exit(8)
    run = remote.post(f"/runs/{run_id}/{verb}", {"digest": digest, "comment": comment})
    show({"run": run["run_id"], "state": run["state"]} if output is Format.TABLE else run, output)


def runbooks(url: Url = None, key: Key = None, output: Output = Format.TABLE) -> None:
    """The runbooks this installation has."""
    from headspring.gateway.cli.client import Remote

    found = Remote(url, key).get("/runbooks")["items"]
    if output is Format.TABLE:
        found = [{"name": item["name"], "risk": item["risk"], "title": item["title"]} for item in found]
    show(found, output)
