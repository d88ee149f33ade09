"""Decisions and audit entries per second, on SQLite files and on PostgreSQL.

Run: `python tests/benchmarks/bench_relational.py [ROUNDS]` from the repository root; some minutes, PostgreSQL from the
cache of test servers, with fsync. Both get the same calls, in turn, in every round, each round on a new database. CPU
time is that of this process and, for PostgreSQL, of the server, which is its child.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.measure import about, cpu_s, heading, percentiles, write
from tests.servers.postgres import postgres
from tests.unit.action.acting import incident

from headspring.action.audit.chain import AuditLog
from headspring.action.service import ActionService
from headspring.action.store import RunStore
from headspring.action.testing.runs import decision, plan
from headspring.action.views import Validation
from headspring.knowledge.documents.sqlite import SqliteDocumentStore
from headspring.knowledge.topology.embedded import EmbeddedTopology
from headspring.proto.action import Plan
from headspring.proto.clock import SystemClock
from headspring.proto.relational.database import Place

CALLS = 400
"""Of each kind, in a round."""
THREADS = (1, 8)
_WORDS = {
    "decide": "decisions written by the store",
    "reject": "decisions by a person, with event and audit entry",
    "audit": "audit entries",
}
_BACKENDS = {"sqlite": "SQLite", "postgres": "PostgreSQL"}


class _NoValidator:
    def validate(self, plan: Plan) -> Validation:
        raise AssertionError("nothing runs here")


def timed(calls: Sequence[Callable[[], object]], threads: int) -> dict[str, float]:
    """Calls per second and per CPU second, and percentiles of one call's milliseconds."""
    took: list[float] = []

    def one(call: Callable[[], object]) -> None:
        started = time.perf_counter()
        call()
        took.append(1000 * (time.perf_counter() - started))

    cpu, started = cpu_s(os.getpid()), time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, calls))
    wall, used = time.perf_counter() - started, cpu_s(os.getpid()) - cpu
    return {"per_s": len(calls) / wall, "per_cpu_s": len(calls) / used, **percentiles(took)}


def stores(place: Place, audit_place: Place, folder: Path, threads: int) -> dict[str, dict[str, float]]:
    """Of the store of runs and of the audit log alone."""
    store = RunStore(place)
    for number in range(CALLS):
        store.add(f"bench-{number}", plan(target=f"service:default/{number}"))
    found = {"decide": timed([partial(store.decide, f"bench-{n}", decision("ann")) for n in range(CALLS)], threads)}
    store.close()
    log = AuditLog(audit_place, folder / "audit.key", folder / "audit.head")
    detail = {"incident": "inc-1", "runbook": "restart-service", "text": "approved by ann", "digest": "d" * 64}
    found["audit"] = timed([partial(log.append, "ann", "run.approved", "run-1", detail, 1)] * CALLS, threads)
    if log.verify().checked != CALLS:
        raise RuntimeError(f"the audit log is not whole: {log.verify()}")
    log.close()
    return found


def decisions(url: str, folder: Path, threads: int, *, acts: bool) -> dict[str, float]:
    """A person's rejections, which end where an approval begins a run: decision, event, audit entry."""
    documents = SqliteDocumentStore(folder / "documents.db")
    documents.put_incident(incident())
    service = ActionService(
        database_url=url, state_dir=folder, secrets=folder, acts=acts, clock=SystemClock(),
        topology=EmbeddedTopology(folder / "topology.db"), documents=documents, validator=_NoValidator(),
        executors=[], notifiers=[], settings={}, emit=lambda topic, key, value, time_ns: None,
    )  # fmt: skip
    far = SystemClock().now_ns() + 3600 * 10**9
    for number in range(CALLS):
        made = plan(tenant="default", target=f"service:default/r{number}")
        service._store.add(f"reject-{number}", replace(made, expires_ns=far))
    found = timed(
        [partial(service.reject, f"reject-{n}", "bob", "operator", "d", tenant="default") for n in range(CALLS)],
        threads,
    )
    service.stop()
    return found


def main(rounds: int) -> None:
    where = about("bench_relational.py")
    taken: dict[tuple[str, int, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as place, postgres(Path(place), durable=True) as server:
        for number in range(rounds + 1):
            for threads in THREADS:
                for backend in _BACKENDS:
                    files = backend == "sqlite"
                    folder = Path(place) / f"{number}-{threads}-{backend}"
                    beside = folder / "service"
                    beside.mkdir(parents=True)
                    url = f"sqlite:///{folder / 'actions.db'}" if files else server.database()
                    found = stores(url, folder / "audit.db" if files else url, folder, threads)
                    url = f"sqlite:///{beside / 'actions.db'}" if files else server.database()
                    found["reject"] = decisions(url, beside, threads, acts=files)
                    for kind, one in found.items() if number else ():  # the first round warms caches
                        taken.setdefault((backend, threads, kind), []).append(one)
    results = {
        f"{backend} {kind} {threads}": {
            name: round(statistics.median(one[name] for one in rows), 2) for name in rows[0]
        }
        for (backend, threads, kind), rows in taken.items()
    }
    write("relational", {"about": where, "rounds": rounds, "calls": CALLS, **results}, text(where, rounds, results))


def text(where: dict[str, Any], rounds: int, results: dict[str, dict[str, float]]) -> str:
    lines = []
    for kind, words in _WORDS.items():
        for threads in THREADS:
            for backend, name in _BACKENDS.items():
                one = results[f"{backend} {kind} {threads}"]
                lines.append(
                    f"| {words} | {threads} | {name} | {one['per_s']:.0f} | {one['per_cpu_s']:.0f} | "
                    f"{one['p50']:.1f} | {one['p99']:.1f} |"
                )
    return (
        heading("Runs and audit: SQLite files and PostgreSQL", where)
        + f"Medians of {rounds} rounds of {CALLS} calls each, after one that does not count. Both write to disk before "
        "they answer (`synchronous=FULL`; `fsync=on`). Per CPU second counts the server's CPU too.\n\n"
        "| what | threads | where | per s | per CPU-s | p50 ms | p99 ms |\n|---|---|---|---|---|---|---|\n"
        + "\n".join(lines)
        + "\n\nThe audit log is one chain, so its entries are written one after the other, whoever writes them. A "
        "decision about a target waits for others about the same target, not for those about others.\n"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
