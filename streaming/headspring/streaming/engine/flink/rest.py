"""What a Flink cluster is asked over its REST interface: jobs, checkpoints, savepoints, our counters."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import httpx2

from headspring.proto.errors import Conflict, NotFound, PlatformError, Rejected, Unavailable

ACTIVE = frozenset({"INITIALIZING", "CREATED", "RUNNING", "FAILING", "RESTARTING", "SUSPENDED", "RECONCILING"})
"""States of a job that goes on, or will."""
COUNTERS = (
    "bad_records", "samples", "late", "behind_watermark", "repeated", "feature_rows", "series_begun",
    "series_forgotten", "unprompted",
)  # fmt: skip
"""What our formats and windows count, since the job's last start or restart. The JobManager fetches them only every
`metrics.fetcher.update-interval`, 10 s by default."""
_METRIC = "headspring_"
_TIMEOUT_S = 10.0
_POLL_S = 0.2
_PACKAGE = re.compile(r"\b(?:[a-z_][\w]*\.){2,}(?=[A-Z])")
_FETCH_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    completed: int = 0
    failed: int = 0
    newest: str = ""
    """Address of the newest retained checkpoint or savepoint; "" none yet."""
    newest_ms: int = 0
    """When it was begun, unix milliseconds."""
    took_ms: int = 0
    bytes: int = 0
    restored: str = ""
    """What the job was last restored from; "" it began with nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    job_id: str
    name: str
    state: str
    """Flink's word: RUNNING, RESTARTING, FINISHED, FAILED, …"""
    running: bool
    """Every task runs: RUNNING alone is also said of a job whose tasks are being deployed."""
    tasks_since_ms: int
    """When the first of its tasks was started last, unix milliseconds: a restart of the job moves it. -1 none was."""
    vertices: dict[str, str] = field(default_factory=dict)
    """Id of each part of the job → its name."""


class FlinkRest:
    """A client; close it or use it in `with`.

    Every method raises `Unavailable` where no JobManager answers or none leads at the moment.
    """

    def __init__(self, url: str, *, timeout_s: float = _TIMEOUT_S) -> None:
        """
        Args:
            url: Of the JobManager, e.g. `http://127.0.0.1:8081`.
        """
        self.url = url.rstrip("/")
        self._client = httpx2.Client(base_url=self.url, timeout=timeout_s, trust_env=False)

    def __enter__(self) -> FlinkRest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def overview(self) -> dict[str, Any]:
        """The cluster: `taskmanagers`, `slots-total`, `slots-available`, `flink-version`, …"""
        found: dict[str, Any] = self._ask("GET", "/overview")
        return found

    def jobs(self) -> list[tuple[str, str, str]]:
        """(id, name, state) of every job the JobManager remembers, newest first."""
        found = sorted(self._ask("GET", "/jobs/overview")["jobs"], key=lambda job: -job["start-time"])
        return [(job["jid"], job["name"], job["state"]) for job in found]

    def find(self, name: str) -> str:
        """The id of the job of this name that goes on.

        Raises:
            NotFound: there is none.
        """
        jobs = self.jobs()
        for job_id, found, state in jobs:
            if found == name and state in ACTIVE:
                return job_id
        others = ", ".join(f"{found} {state}" for _, found, state in jobs[:5]) or "no job at all"
        raise NotFound(f"no job named {name} runs at {self.url} ({others}); submit it with `headspring flink submit`")

    def job(self, job_id: str) -> Job:
        """
        Raises:
            NotFound: the JobManager does not know it.
        """
        found = self._ask("GET", f"/jobs/{job_id}")
        states = [vertex["status"] for vertex in found["vertices"]]
        return Job(
            job_id=job_id,
            name=found["name"],
            state=found["state"],
            running=found["state"] == "RUNNING" and bool(states) and set(states) == {"RUNNING"},
            tasks_since_ms=min((vertex["start-time"] for vertex in found["vertices"]), default=-1),
            vertices={vertex["id"]: vertex["name"] for vertex in found["vertices"]},
        )

    def failure(self, job_id: str) -> str:
        """The last thing that went wrong, in one line; "" nothing did."""
        entries = self._ask("GET", f"/jobs/{job_id}/exceptions?maxExceptions=1")["exceptionHistory"]["entries"]
        return _reason(entries[0]["stacktrace"]) if entries else ""

    def checkpoints(self, job_id: str) -> Checkpoints:
        """
        Raises:
            NotFound: no such job.
        """
        found = self._ask("GET", f"/jobs/{job_id}/checkpoints")
        if "counts" not in found:
            return Checkpoints()
        latest = found["latest"]
        completed = latest.get("completed") or {}
        return Checkpoints(
            completed=found["counts"]["completed"],
            failed=found["counts"]["failed"],
            newest=completed.get("external_path", ""),
            newest_ms=completed.get("trigger_timestamp", 0),
            took_ms=completed.get("end_to_end_duration", 0),
            bytes=completed.get("state_size", 0),
            restored=(latest.get("restored") or {}).get("external_path", ""),
        )

    def counters(self, job_id: str) -> dict[str, int]:
        """`COUNTERS` over all tasks; a counter that no task has shown yet is 0.

        Raises:
            NotFound: no such job.
        """
        job = self.job(job_id)
        for vertex in job.vertices:  # the JobManager fetches numbers when it is asked, and answers with older ones
            self._ask("GET", f"/jobs/{job_id}/vertices/{vertex}/subtasks/metrics", many=True)
        time.sleep(_FETCH_S)
        totals: Counter[str] = Counter(dict.fromkeys(COUNTERS, 0))
        for vertex in job.vertices:
            place = f"/jobs/{job_id}/vertices/{vertex}/subtasks/metrics"
            names = [
                metric["id"]
                for metric in self._ask("GET", place, many=True)
                if metric["id"].rpartition(".")[2].startswith(_METRIC)
            ]
            if not names:
                continue
            for metric in self._ask("GET", f"{place}?agg=sum&get={','.join(names)}", many=True):
                totals[metric["id"].rpartition(".")[2].removeprefix(_METRIC)] += int(metric["sum"])
        return dict(totals)

    def savepoint(self, job_id: str, folder: str = "", *, timeout_s: float = 120.0) -> str:
        """Takes a savepoint while the job goes on; where it is.

        Args:
            folder: Address of the folder it goes into; empty for the cluster's own.

        Raises:
            Unavailable: it failed, or was not done in time.
            NotFound: no such job.
        """
        body = {"cancel-job": False, **({"target-directory": folder} if folder else {})}
        request = self._ask("POST", f"/jobs/{job_id}/savepoints", body)["request-id"]
        return self._await_savepoint(job_id, request, timeout_s)

    def stop(self, job_id: str, folder: str = "", *, timeout_s: float = 120.0) -> str:
        """Takes a savepoint and ends the job: everything before it is in the output, nothing after it.

        Raises:
            Unavailable: the savepoint failed, or was not done in time; then the job goes on.
            NotFound: no such job.
        """
        body = {"drain": False, **({"targetDirectory": folder} if folder else {})}
        request = self._ask("POST", f"/jobs/{job_id}/stop", body)["request-id"]
        place = self._await_savepoint(job_id, request, timeout_s)
        self.await_end(job_id, timeout_s=timeout_s)
        return place

    def cancel(self, job_id: str) -> None:
        """Ends the job without a savepoint; its newest checkpoint stays.

        Raises:
            NotFound: no such job.
        """
        self._ask("PATCH", f"/jobs/{job_id}?mode=cancel")

    def await_running(self, job_id: str, *, timeout_s: float = 60.0) -> Job:
        """Returns when every task of the job runs.

        Raises:
            Rejected: it ended instead; says why.
            Unavailable: it does not run after that time; says what it does.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            job = self.job(job_id)
            if job.running:
                return job
            if job.state not in ACTIVE:
                raise Rejected(
                    f"job {job.name} is {job.state} instead of running: {self.failure(job_id) or 'no reason'}"
                )
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"job {job.name} is {job.state} after {timeout_s:.0f} s: "
                    f"{self.failure(job_id) or 'its tasks do not all run; has the cluster enough slots?'}"
                )
            time.sleep(_POLL_S)

    def await_end(self, job_id: str, *, timeout_s: float = 60.0) -> None:
        """Returns when the job has ended, however.

        Raises:
            Unavailable: it goes on after that time.
        """
        deadline = time.monotonic() + timeout_s
        while (state := self.job(job_id).state) in ACTIVE:
            if time.monotonic() > deadline:
                raise Unavailable(f"job {job_id} is still {state} after {timeout_s:.0f} s")
            time.sleep(_POLL_S)

    def _await_savepoint(self, job_id: str, request: str, timeout_s: float) -> str:
        deadline = time.monotonic() + timeout_s
        while True:
            found = self._ask("GET", f"/jobs/{job_id}/savepoints/{request}")
            if found["status"]["id"] == "COMPLETED":
                operation = found["operation"]
                if "location" in operation:
                    return str(operation["location"])
                reason = _reason(operation["failure-cause"]["stack-trace"])
                raise Unavailable(f"the savepoint of job {job_id} failed: {reason}")
            if time.monotonic() > deadline:
                raise Unavailable(f"the savepoint of job {job_id} is not done after {timeout_s:.0f} s")
            time.sleep(_POLL_S)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None, *, many: bool = False) -> Any:
        try:
            answer = self._client.request(method, path, json=body)
        except httpx2.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise Unavailable(
                f"no JobManager of Flink answers at {self.url} ({reason}); start it, or correct the address"
            ) from error
        if answer.is_success:
            return _json(self.url, answer, many)
        raise _refusal(self.url, path, answer)


def _json(url: str, answer: httpx2.Response, many: bool) -> Any:
    try:
        found = answer.json()
    except ValueError:
        found = None
    if isinstance(found, list if many else dict):
        return found
    raise Rejected(f"{url} does not answer as Flink does ({answer.text[:80]!r}); wanted the address of a JobManager")


def _refusal(url: str, path: str, answer: httpx2.Response) -> PlatformError:
    try:
        errors = answer.json()["errors"]
        reason = _reason(next((text for text in errors if "\n" in text), errors[0]))
    except (ValueError, KeyError, IndexError, TypeError):
        reason = answer.text[:200]
    said = f"Flink at {url} answers {answer.status_code} to {path.partition('?')[0]}: {reason}"
    if answer.status_code == 404:
        return NotFound(said)
    if answer.status_code == 409:
        return Conflict(said)
    if answer.status_code >= 500 and "not found" not in reason.lower():
        return Unavailable(said)
    return Rejected(said)


def _reason(trace: str) -> str:
    """What a Java stack trace says, in one line: its two innermost causes, without the packages of their classes."""
    lines = [line.strip() for line in trace.splitlines()]
    told = [line.removeprefix("Caused by: ") for line in lines if line and not line.startswith(("at ", "...", "- "))]
    words = list(dict.fromkeys(_PACKAGE.sub("", line) for line in told))
    # What wraps an error often repeats it whole.
    plain = [word for word in words if not any(other in word for other in words if other != word)]
    return ": ".join(plain[-2:])[:500] or "no reason given"
