"""One process of a role against two: how much more they do, and what a CPU second does then.

Run: `python tests/benchmarks/bench_role_scaling.py [ROLE ...]` from the repository root; about ten minutes. Roles run
as they are deployed (`headspring run ROLE`), on every server that they need. For detect, correlate and store a backlog
is put on their topic: processes join, take a first part (kernels are compiled then), are stopped by SIGSTOP while the
rest is written, and go on together. For ingestion and the gateway the same load goes to the door of one process or is
split over two. Windows are measured in `bench_kafka_engine.py`. Diagnose and act are not: they wait for times that are
due and for people, not for work.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks import bench_faust, measure, role_load
from tests.benchmarks.role_load import Backlog, Step
from tests.servers import stack
from tests.servers.process import free_port

from headspring.knowledge.topology.graph import Edge
from headspring.knowledge.topology.neo4j_store import Neo4jTopology
from headspring.proto.clock import SystemClock
from headspring.proto.topics import ALERTS
from headspring.streaming.log.kafka.connection import KafkaConnection
from headspring.streaming.log.kafka.log import KafkaLog

ROUNDS = 3
BACKLOGS: Mapping[str, Callable[[], Backlog]] = {
    "detect": role_load.detect, "correlate": role_load.correlate, "store": role_load.store,
}  # fmt: skip
DOORS = {"ingestion": "otlp_port", "gateway": "port"}
HELPERS = {"ingestion": "gateway", "gateway": "store"}
"""Who must be there beside them: the gateway brings the first key, the store what is listed."""
ROLES = (*BACKLOGS, *DOORS)
_WAIT_S = 300.0
_LOOK_S = 0.1
_RECORDS_IN = re.compile(r'^headspring_stage_records_in_total\{stage="([^"]+)"\} (\d+)', re.MULTILINE)

Settings = Mapping[str, Any]
Figures = dict[str, float]


class Bench:
    """Servers that are there, and a folder for what roles leave."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder, self.settings = folder, settings
        self._passes = itertools.count()

    @contextmanager
    def roles(self, *names: str) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Processes of roles on topics of their own, all ready; the place they share, and each of them."""
        number = next(self._passes)
        folder = self.folder / f"pass-{number}"
        folder.mkdir()
        secrets = self.folder / "secrets"  # the database is one for all passes, and holds what they hash
        secrets.mkdir(mode=0o700, exist_ok=True)
        (folder / "secrets").symlink_to(secrets)
        place = stack.configure(folder, {**self.settings, "kafka_prefix": f"p{number}."})
        place["prefix"] = f"p{number}."
        with ExitStack() as started:
            found = []
            for name in names:
                doors = {setting: free_port() for setting in ("otlp_port", "grpc_port", "port")}
                environ = {f"HEADSPRING_{setting.upper()}": str(port) for setting, port in doors.items()}
                one = started.enter_context(stack.role(name, folder, place, environ=environ))
                found.append({**one, **{setting: f"http://127.0.0.1:{port}" for setting, port in doors.items()}})
            yield place, found

    def append(self, prefix: str, steps: Sequence[Step]) -> int:
        """Writes records; how many."""
        asyncio.run(self._append(prefix, steps))
        return sum(len(records) for _, records in steps)

    async def _append(self, prefix: str, steps: Sequence[Step]) -> None:
        names = [topic for topic, _ in steps]
        log = await KafkaLog.open(
            KafkaConnection(self.settings["kafka"]), clock=SystemClock(), partitions=stack.PARTITIONS, replication=1,
            prefix=prefix, reads=names, writes=names,
        )  # fmt: skip
        for topic, records in steps:
            for start in range(0, len(records), 200):
                await log.append(topic, records[start : start + 200])
        await log.close()


def drained(bench: Bench, backlog: Backlog, parts: int) -> Figures:
    """A backlog is worked off by so many processes."""
    with bench.roles(*[backlog.role] * parts) as (place, processes):
        pids = [int(one["pid"]) for one in processes]
        time.sleep(8.0)  # until every process has its share; who got none is seen below
        count = bench.append(place["prefix"], backlog.warm)
        _await_taken(processes, backlog.stage, count)
        _signal(pids, signal.SIGSTOP)
        try:
            more = bench.append(place["prefix"], backlog.work)
            spent, began = [measure.cpu_s(pid) for pid in pids], time.monotonic()
        finally:
            _signal(pids, signal.SIGCONT)
        taken = _await_taken(processes, backlog.stage, count + more)
        wall_s = time.monotonic() - began
        cpu_s = sum(measure.cpu_s(pid) - start for pid, start in zip(pids, spent, strict=True))
        if min(taken) == 0:
            raise RuntimeError(f"a process of {backlog.role} had nothing to do: {taken}")
    return _figures(backlog.units, wall_s, cpu_s, min(taken) / sum(taken))


def knocked(bench: Bench, role: str, parts: int) -> Figures:
    """A load goes to the doors of so many processes."""
    helpers = [HELPERS[role]]
    with bench.roles(*helpers, *[role] * parts) as (place, all_processes):
        processes = all_processes[len(helpers) :]
        urls = [one[DOORS[role]] for one in processes]
        pids = [int(one["pid"]) for one in processes]
        if role == "gateway":
            alerts = bench_faust.records_of(bench_faust.alerts(tenants=["default"])[:600])
            bench.append(place["prefix"], [(ALERTS.name, alerts)])
            _await_alerts(urls, place["key"])
            return _timed(pids, lambda: role_load.read(urls, place["key"]))
        with role_load.Sending() as sending:
            sending.send(urls, place["key"])  # series are known and kernels compiled from here on
            return _timed(pids, lambda: sending.send(urls, place["key"]))


def _timed(pids: Sequence[int], call: Callable[[], int]) -> Figures:
    spent, began = sum(map(measure.cpu_s, pids)), time.monotonic()
    units = call()
    return _figures(units, time.monotonic() - began, sum(map(measure.cpu_s, pids)) - spent, 1.0 / len(pids))


def _figures(units: int, wall_s: float, cpu_s: float, least_share: float) -> Figures:
    return {
        "per_s": units / wall_s, "per_cpu_s": units / cpu_s, "cores": cpu_s / wall_s, "wall_s": wall_s,
        "least_share": least_share,
    }  # fmt: skip


def _taken(process: Mapping[str, Any], stage: str) -> int:
    text = httpx2.get(f"{process['health']}/metrics", timeout=30.0, trust_env=False).text
    return int(dict(_RECORDS_IN.findall(text)).get(stage, "0"))


def _await_taken(processes: Sequence[Mapping[str, Any]], stage: str, count: int) -> list[int]:
    deadline = time.monotonic() + _WAIT_S
    while sum(taken := [_taken(one, stage) for one in processes]) < count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{stage} took {taken} of {count} records within {_WAIT_S:.0f} s")
        time.sleep(_LOOK_S)
    return taken


def _await_alerts(urls: Sequence[str], key: str) -> None:
    deadline = time.monotonic() + _WAIT_S
    for url in urls:
        while True:
            answer = httpx2.get(
                f"{url}/api/v1/alerts?limit=100", headers={"authorization": f"Bearer {key}"}, timeout=30.0,
                trust_env=False,
            )  # fmt: skip
            if answer.is_success and len(answer.json()["items"]) == 100:
                break
            if time.monotonic() > deadline:
                raise RuntimeError(f"{url} answers {answer.status_code}: {answer.text[:500]}")
            time.sleep(0.5)


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


def run(bench: Bench, roles: Sequence[str]) -> dict[str, Any]:
    """By role: medians of one and of two processes, and their ratios."""
    found: dict[str, Any] = {}
    for role in roles:
        backlog = BACKLOGS[role]() if role in BACKLOGS else None
        if backlog is not None and role == "correlate":
            _know_topology(bench.settings, backlog)
        rounds: dict[int, list[Figures]] = {1: [], 2: []}
        for _, parts in itertools.product(range(ROUNDS), (1, 2)):
            result = drained(bench, backlog, parts) if backlog is not None else knocked(bench, role, parts)
            rounds[parts].append(result)
            _say(f"{role}, {parts}: {result}")
        one, two = (
            {name: statistics.median(result[name] for result in results) for name in results[0]}
            for results in rounds.values()
        )
        found[role] = {
            "unit": backlog.unit if backlog is not None else {"ingestion": "samples", "gateway": "lists"}[role],
            "one": _rounded(one), "two": _rounded(two),
            "two_to_one_wall": round(two["per_s"] / one["per_s"], 2),
            "two_to_one_cpu": round(two["per_cpu_s"] / one["per_cpu_s"], 2),
            "two_to_one_wall_range": _range(rounds, "per_s"),
        }  # fmt: skip
    return found


def _know_topology(settings: Settings, backlog: Backlog) -> None:
    graph = Neo4jTopology(settings["neo4j_url"], user=settings["neo4j_user"], password=settings["neo4j_password"])
    tenants = {record.key.split(b"\x1f")[0].decode() for _, records in backlog.work for record in records}
    for tenant in sorted(tenants):
        edges = [Edge(caller=a, callee=b) for a, b in itertools.pairwise(bench_faust.SERVICES)]
        graph.replace_configured(tenant, edges)
    graph.close()


def _range(rounds: Mapping[int, Sequence[Figures]], name: str) -> list[float]:
    ratios = [two[name] / one[name] for one, two in zip(rounds[1], rounds[2], strict=True)]
    return [round(min(ratios), 2), round(max(ratios), 2)]


def _rounded(figures: Figures) -> Figures:
    return {name: round(value, 3 if value < 100 else 0) for name, value in figures.items()}


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def text(about: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        measure.heading("One process of a role against two", dict(about))
        + f"Medians of {ROUNDS} rounds, one and two processes by turns; in brackets the smallest and the largest ratio "
        f"of a round. Processes, servers and the sender of the load share {os.cpu_count()} cores: where one process "
        "and its servers fill them, two cannot be faster, so work per CPU second is told too: near 1.0, a second "
        "process on a machine of its own does what the first does, as far as the servers go along.\n",
        "| role | work | per s: one | two | ratio | per CPU-s: one | two | ratio | cores: one | two |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for role, row in rows.items():
        one, two = row["one"], row["two"]
        low, high = row["two_to_one_wall_range"]
        lines.append(
            f"| {role} | {row['unit']} | {one['per_s']:,.0f} | {two['per_s']:,.0f} | {row['two_to_one_wall']:.2f} "
            f"({low:.2f}–{high:.2f}) | {one['per_cpu_s']:,.0f} | {two['per_cpu_s']:,.0f} | "
            f"{row['two_to_one_cpu']:.2f} | {one['cores']:.2f} | {two['cores']:.2f} |"
        )
    lines.append(
        "\nCPU is of the role's processes alone. Detect, correlate and store work off a backlog that is there before "
        "the clock starts; ingestion takes remote write of two senders with one connection each; the gateway lists "
        f"100 alerts for {role_load.READERS} connections. Windows: `kafka_engine.md`."
    )
    return "\n".join(lines)


def main() -> None:
    roles = sys.argv[1:] or list(ROLES)
    about = measure.about("bench_role_scaling.py")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with stack.servers(folder / "servers", _say) as settings:
            bench = Bench(folder, settings)
            rows: dict[str, Any] = {}
            for role in roles:  # written after each: it takes a while
                rows |= run(bench, [role])
                measure.write("role_scaling", {"about": about, "roles": rows}, text(about, rows))


if __name__ == "__main__":
    main()
