"""Services that only a run can mend, and the two people who ask for such runs and approve them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx2
from tests.faults.load import alert_of, webhook
from tests.faults.operations import Operations
from tests.servers.headspring import Headspring

RUNBOOK = "drain-and-restart"
"""Three keyed steps, and a rollback: scale out, restart, scale back."""
RUNBOOK_SETTINGS = "scale_out_replicas=4 scale_base_replicas=2"
WAITING = "waiting_approval"
_ASKER, _APPROVER = "asker", "approver"


def post(site: Headspring, path: str, key: str, body: Any, **headers: str) -> httpx2.Response | None:
    """The answer; None where the platform is not there, or went away before it answered."""
    try:
        return httpx2.post(
            f"{site.url}{path}", json=body, headers={"authorization": f"Bearer {key}", **headers}, timeout=15.0,
            trust_env=False,
        )  # fmt: skip
    except httpx2.HTTPError:
        return None


@dataclass
class _Desk:
    service: str
    starts: datetime
    told: bool = False
    """That its alert fires has been acknowledged."""
    mended: bool = False
    over: bool = False
    """That its alert is over has been acknowledged."""


class Desks:
    """Every few seconds one more service has an alert, which is over once the service was restarted."""

    def __init__(self, site: Headspring, *, every_s: float) -> None:
        self._site = site
        self._every_s = every_s
        self._desks: dict[str, _Desk] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Harmless when it has stopped, or never started."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def restarted(self, service: str) -> None:
        self._desks[service].mended = True

    def told(self) -> list[str]:
        """Services whose alert the platform knows of, oldest first."""
        return [desk.service for desk in list(self._desks.values()) if desk.told]

    def no_more(self) -> None:
        """From now on alerts only end."""
        self._every_s = float("inf")

    def _send(self) -> None:
        next_s = 0.0
        while not self._stopping.wait(0.3):
            if time.monotonic() >= next_s and self._every_s < float("inf"):
                service = f"desk-{len(self._desks):02d}"
                self._desks[service] = _Desk(service, datetime.now(UTC))
                next_s = time.monotonic() + self._every_s
            for desk in list(self._desks.values()):
                if not desk.told:
                    desk.told = self._tell(desk)
                elif desk.mended and not desk.over:
                    desk.over = self._tell(desk)

    def _tell(self, desk: _Desk) -> bool:
        name = "Stuck" + desk.service.replace("-", "").capitalize()
        alert = alert_of(name, desk.service, f"{desk.service} is stuck", desk.starts, over=desk.told)
        answer = post(self._site, "/api/v1/alerts/ingest", self._site.api_key, webhook(name, [alert]))
        return answer is not None and answer.is_success


@dataclass
class People:
    """One asks for runs, the other approves; what the platform said yes to is remembered."""

    site: Headspring
    held: int
    """So many runs wait for a decision until the end."""
    digests: dict[str, str] = field(default_factory=dict)
    """Of runs that were asked for, by run id, in order."""
    asked: set[str] = field(default_factory=set)
    """Services a run was asked for, and that was acknowledged."""
    approved: set[str] = field(default_factory=set)
    """Runs whose approval was acknowledged."""
    unanswered: set[str] = field(default_factory=set)
    """Runs whose approval got no answer: approved or not."""
    done: dict[str, int] = field(default_factory=dict)
    """By key of a step that the platform showed as done: how often it had been requested by then."""
    put_off: str = ""
    """Why a run could not be asked for yet, the last time."""
    keys: dict[str, str] = field(default_factory=dict)

    def join(self) -> None:
        """Makes the two their keys."""
        for name in (_ASKER, _APPROVER):
            answer = post(self.site, "/api/v1/keys", self.site.api_key, {"name": name, "role": "operator"})
            assert answer is not None
            assert answer.status_code == 201, answer.text
            self.keys[name] = answer.json()["key"]

    def ask(self, service: str) -> None:
        """Asks for a run; the same request again is the same run."""
        entity = f"service:default/{service}"
        try:
            items = self.site.get("/api/v1/incidents", entity=entity)["items"]
        except httpx2.HTTPError:
            return
        incident = next((item["incident_id"] for item in items if item["state"] == "open"), None)
        if incident is None:
            return
        answer = post(
            self.site, f"/api/v1/runbooks/{RUNBOOK}/execute", self.keys[_ASKER], {"incident_id": incident},
            **{"idempotency-key": f"ask-{service}"},
        )  # fmt: skip
        if answer is None or answer.status_code == 412:  # gone, or there is no diagnosis yet
            self.put_off = answer.text if answer is not None else "no answer"
            return
        assert answer.status_code == 202, answer.text
        run = answer.json()
        assert run["plan"]["cause_entity"] == entity
        self.digests[run["run_id"]] = run["plan"]["digest"]
        self.asked.add(service)

    def undecided(self) -> list[str]:
        """Runs that may be approved now, oldest first."""
        return [run for run in list(self.digests)[self.held :] if run not in self.approved | self.unanswered]

    def kept(self) -> list[str]:
        """Runs that nobody decides about."""
        return list(self.digests)[: self.held]

    def approve(self, run_id: str) -> None:
        body = {"digest": self.digests[run_id], "comment": "yes"}
        answer = post(self.site, f"/api/v1/runs/{run_id}/approve", self.keys[_APPROVER], body)
        if answer is None:
            self.unanswered.add(run_id)
            return
        assert answer.status_code == 200, answer.text
        self.approved.add(run_id)

    def look(self, operations: Operations) -> dict[str, dict[str, Any]]:
        """The runs by id, each checked against what was acknowledged.

        Raises:
            httpx2.HTTPError: the platform is not there.
        """
        found: dict[str, dict[str, Any]] = {}
        cursor = ""
        while True:
            page = self.site.get("/api/v1/runs", limit="200", cursor=cursor)
            found.update({run["run_id"]: run for run in page["items"]})
            cursor = page["next_cursor"]
            if not cursor:
                break
        for run_id, digest in self.digests.items():
            self._check(found[run_id], digest)
            for step in found[run_id]["steps"]:
                if step["state"] == "done":
                    key = f"{run_id}/{step['step_id']}"
                    self.done.setdefault(key, operations.requests[key])
        by_incident = Counter(run["incident_id"] for run in found.values() if run["requested_by"] == _ASKER)
        assert all(count == 1 for count in by_incident.values()), "a request that was repeated is two runs"
        return found

    def _check(self, run: dict[str, Any], digest: str) -> None:
        assert run["plan"]["digest"] == digest
        decisions = [(one["verdict"], one["actor"], one["digest"], one["comment"]) for one in run["decisions"]]
        if run["run_id"] in self.unanswered:
            self.unanswered.remove(run["run_id"])
            if decisions:
                self.approved.add(run["run_id"])
        if run["run_id"] in self.approved:
            assert decisions == [("approve", _APPROVER, digest, "yes")], "an approval is lost, or another one"
            assert run["state"] != WAITING
        else:
            assert (run["state"], decisions) == (WAITING, []), f"a run that waited does not: {run['events'][-1:]}"
