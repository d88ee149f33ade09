"""`headspring demo`: platform and shop as processes, a fault, and the way to its repair, checked at every step."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from headspring.gateway.demo import estate
from headspring.gateway.demo.processes import instrumentation
from headspring.gateway.demo.scenario import BY_NAME, ENDED, Judge, Past, Scenario, top_hypothesis
from headspring.gateway.demo.screen import Screen
from headspring.gateway.demo.stand import OPERATOR, START_TIMEOUT_S, Stand, open_stand
from headspring.proto.errors import NotReady, PlatformError, Unavailable

HEALTHY = "none"
BASELINE_S = 50.0
"""Normal traffic before the fault: what detection needs to know what is normal."""
_EARLIER_END_S = 240.0
_PERSON_S = 1800.0
"""Least time from the fault to the resolved incident where a person decides."""
_POLL_S = 0.5


def main(
    fault: str, yes: bool, keep: bool, data: Path | None, timeout_s: float = 300.0, *, minutes: float = 10.0,
    baseline_s: float = BASELINE_S, stack_file: Path | None = None,
) -> int:  # fmt: skip
    """Runs a scenario, or with `none` a healthy shop for `minutes`; 0 only if everything was as it must be.

    Args:
        fault: A scenario's name or `none`.
        yes: Approves the proposed run as `demo-operator`; otherwise waits for a person in the UI.
        keep: Leaves everything running afterwards until Ctrl-C; so does a terminal without `yes`.
        data: Folder to write to; a temporary one, removed afterwards, if None.
        timeout_s: Time from the fault to the resolved incident.
        minutes: How long the healthy shop is watched.
        baseline_s: Normal traffic before the fault.
        stack_file: Description of a running stack (`make stack`) to use instead of a platform of its own.

    Raises:
        ConfigError: the `shop` extra is not installed.
    """
    if fault != HEALTHY and fault not in BY_NAME:
        sys.stderr.write(f"no scenario {fault!r}; wanted one of {', '.join(BY_NAME)}, {HEALTHY}\n")
        return 2
    if not yes:
        timeout_s = max(timeout_s, _PERSON_S)
    instrumentation()  # without it nothing would start, which is better said before anything does
    folder = (data or Path(tempfile.mkdtemp(prefix="headspring-demo-"))).resolve()
    scenario = BY_NAME.get(fault)
    title = f"{fault}: {scenario.summary}" if scenario else f"healthy shop, {minutes:g} minutes"
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with ExitStack() as stack:
            screen = Screen(f"Headspring demo · {title}")
            stand = stack.enter_context(open_stand(folder, screen, stack_file))
            # Whoever decides in the browser also wants to look around there afterwards.
            looks = keep or (not yes and sys.stdin.isatty())
            if looks or not yes:
                screen.say(f"sign in at {stand.platform.url} with the key {stand.operator_key}")
            with screen:
                problems = (
                    _watch(stand, screen, minutes, baseline_s)
                    if scenario is None
                    else _run(stand, screen, scenario, yes=yes, baseline_s=baseline_s, timeout_s=timeout_s)
                )
            for problem in problems:
                screen.say(f"✗ {problem}")
            if not problems:
                screen.say("✓ everything as expected")
            if looks:
                screen.say(f"still running at {stand.platform.url}; Ctrl-C ends it")
                with suppress(KeyboardInterrupt):
                    threading.Event().wait()
            return 1 if problems else 0
    except KeyboardInterrupt:
        return 130
    except PlatformError as error:
        sys.stderr.write(f"✗ {error}\n")
        _tail(folder / "platform.log")
        return 1
    finally:
        signal.signal(signal.SIGTERM, previous)
        if data is None and not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _run(
    stand: Stand, screen: Screen, scenario: Scenario, *, yes: bool, baseline_s: float, timeout_s: float
) -> list[str]:
    """The scenario from baseline to resolved; what was not as expected."""
    early = _baseline(stand, screen, baseline_s)
    if early:
        return early
    past = Past.of(stand.platform.details())
    for fault in scenario.faults:
        stand.shop.post(f"/simulate/{fault.kind}", fault.body)
        screen.say(f"fault put in: {fault.kind} {dict(fault.body)}")
    judge = Judge(scenario)
    injected = time.monotonic()
    asked: set[str] = set()
    while not judge.done and time.monotonic() - injected < timeout_s:
        time.sleep(_POLL_S)
        with suppress(Unavailable):  # the machine may be busy; the deadline decides
            judge.see(past.since(stand.platform.details(without=past.ended(stand.platform.incidents()))))
            _show(stand, screen, judge)
            for found in judge.found.values():
                if found.run_id in asked and not yes and found.run_state in ("executing", "validating", "succeeded"):
                    screen.stage("approval", f"{found.runbook} approved", "done")
                if not found.approvable or found.run_id in asked:
                    continue
                asked.add(found.run_id)
                if yes:
                    stand.operator.approve(found.run_id, found.digest)
                    screen.stage("approval", f"{found.runbook} approved by {OPERATOR}", "done")
                else:
                    screen.say(f"read the plan and decide: {stand.platform.url}/incidents/{found.incident_id}")
    status = stand.shop.get("/simulate/status")
    problems = judge.shortcomings(status["operations"], status["faulty"])
    if not judge.done:
        problems.insert(0, f"not resolved within {timeout_s:.0f} s")
    for found in judge.found.values():
        if found.incident_id:
            screen.say(f"incident page: {stand.platform.url}/incidents/{found.incident_id}")
    return problems


def _watch(stand: Stand, screen: Screen, minutes: float, baseline_s: float) -> list[str]:
    """A healthy shop; every incident is a false alarm."""
    problems = _baseline(stand, screen, baseline_s)
    deadline = time.monotonic() + minutes * 60
    while time.monotonic() < deadline:
        time.sleep(2.0)
        with suppress(Unavailable):
            alarms = _false_alarms(stand)
            if alarms:
                return alarms
            left = deadline - time.monotonic()
            screen.stage("alerts", f"{len(stand.platform.alerts())} alerts, no incident; {left:.0f} s to go")
    screen.stage("alerts", f"{len(stand.platform.alerts())} alerts, no incident in {minutes:g} minutes", "done")
    return problems + _false_alarms(stand)


def _baseline(stand: Stand, screen: Screen, baseline_s: float) -> list[str]:
    """Waits for telemetry of every service and then for `baseline_s` of it.

    Raises:
        NotReady: a service was never seen.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    missing = set(estate.NAMES)
    while missing and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        with suppress(Unavailable):
            missing = set(estate.NAMES) - stand.platform.services_seen()
        screen.stage("samples", f"waiting for {', '.join(sorted(missing))}" if missing else "from every service")
    if missing:
        raise NotReady(f"no telemetry from {', '.join(sorted(missing))} within {START_TIMEOUT_S:.0f} s")
    screen.stage("samples", f"from all {len(estate.NAMES)} services", "done")
    _let_earlier_end(stand, screen)
    until = time.monotonic() + baseline_s
    while time.monotonic() < until:
        screen.stage("series", f"learning what is normal, {until - time.monotonic():.0f} s to go")
        time.sleep(min(1.0, max(0.0, until - time.monotonic())))
    screen.stage("series", f"{baseline_s:.0f} s of normal traffic seen", "done")
    return _false_alarms(stand)


def _let_earlier_end(stand: Stand, screen: Screen) -> None:
    """On a stack that other demos ran on: what their end left open must be over, and does not count as ours.

    Raises:
        NotReady: it does not end.
    """
    deadline = time.monotonic() + _EARLIER_END_S
    while True:
        incidents = stand.platform.incidents()
        open_ones = [one for one in incidents if one.get("state") not in ENDED]
        if not open_ones:
            stand.earlier.update(one["incident_id"] for one in incidents)
            return
        if time.monotonic() > deadline:
            raise NotReady(f"incident {open_ones[0]['incident_id']} of an earlier time is still open")
        screen.stage("samples", f"{len(open_ones)} incidents of an earlier time end first")
        time.sleep(_POLL_S)


def _false_alarms(stand: Stand) -> list[str]:
    return [
        f"false alarm: incident {incident['incident_id']} ({incident.get('title', '')}) while the shop was healthy"
        for incident in stand.platform.incidents()
        if incident["incident_id"] not in stand.earlier
    ]


def _show(stand: Stand, screen: Screen, judge: Judge) -> None:
    """Puts what is known on the screen."""
    incidents = [found for found in judge.found.values() if found.incident_id]
    if not incidents:
        alerts = stand.platform.alerts()
        if alerts:
            screen.stage("alerts", f"{len(alerts)}, first: {alerts[-1].get('summary') or alerts[-1].get('name', '')}")
        for detail in stand.platform.details() if judge.wrong else ():
            top = top_hypothesis(detail)
            screen.stage("incident", f"{detail['incident'].get('title', '')}", "done")
            if top:
                screen.stage("cause", f"so far {top.get('entity')} with {top.get('probability', 0.0):.0%}")
        return
    everything = len(incidents) == len(judge.found)

    def stage(name: str, parts: Sequence[str], done: bool, failed: bool = False) -> None:
        if any(parts):
            state = "failed" if failed else "done" if done and everything else "active"
            screen.stage(name, " · ".join(part for part in parts if part), state)

    states = [found.run_state for found in incidents]
    stage("alerts", [f"{found.alerts} on {found.incident_id}" for found in incidents], True)
    stage("incident", [f"{found.title or found.incident_id} ({found.incident_state})" for found in incidents], True)
    stage(
        "cause",
        [
            f"{found.cause} {found.probability:.0%} {found.status}: {'; '.join(found.evidence[:2])}"
            for found in incidents
        ],
        all(found.right for found in incidents),
    )
    stage("plan", [f"{found.runbook}: {' → '.join(found.steps)}" for found in incidents if found.run_id], all(states))
    if any(state == "waiting_approval" for state in states):
        screen.stage("approval", "waits for consent")
    past = ("executing", "validating", "succeeded")
    stage("execution", [state for state in states if state in past], all(s in past[1:] for s in states),
          any(state in ("failed", "escalated") for state in states))  # fmt: skip
    stage("validation", [state for state in states if state in past[1:]], all(s == "succeeded" for s in states),
          any(state in ("rolling_back", "rolled_back") for state in states))  # fmt: skip
    stage("resolved", [found.incident_state for found in incidents if found.incident_state in ("settling", "resolved")],
          all(found.incident_state == "resolved" for found in incidents))  # fmt: skip


def _tail(log: Path, lines: int = 20) -> None:
    with suppress(OSError):
        sys.stderr.write("\n".join(log.read_text(errors="replace").splitlines()[-lines:]) + "\n")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
