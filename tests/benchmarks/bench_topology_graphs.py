"""The topology graph in SQLite and in Neo4j: writes, snapshots, neighbours, one estate of 10 000 services.

Run: `python tests/benchmarks/bench_topology_graphs.py` from the repository root; two minutes, Neo4j from the cache of
test servers. Both backends get the same calls in turn, in one run. CPU seconds are those of this process, and of the
server beside it.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.measure import about, cpu_s, heading, percentiles, write
from tests.servers.neo4j import neo4j

from headspring.knowledge.topology.embedded import EmbeddedTopology
from headspring.knowledge.topology.graph import Edge
from headspring.knowledge.topology.neo4j_store import Neo4jTopology
from headspring.knowledge.topology.port import TopologyGraph
from headspring.proto.clock import NS_PER_S

ENTITIES = 10_000
EDGES = 20_000
BATCH = 1_000
"""Edges in one `observe`."""
ROUNDS = 4
"""Sightings of every edge after the first; the first of these still warms the server up and is not counted."""
TENANT = "default"
START_NS = 1_800_000_000 * NS_PER_S
ASKED = 200


def estate() -> list[Edge]:
    """Distinct edges; a few callees have many callers, as in real estates."""
    generator = random.Random(1)
    names = [f"service:default/{one}" for one in range(ENTITIES)]
    found: set[tuple[str, str]] = set()
    while len(found) < EDGES:
        caller, callee = generator.choice(names), names[int(ENTITIES * generator.random() ** 3)]
        if caller != callee:
            found.add((caller, callee))
    return [Edge(caller=a, callee=b, source="spans", last_seen_ns=START_NS) for a, b in sorted(found)]


class Meter:
    """Wall and CPU seconds of calls; `server` is the process id of a server whose CPU counts too."""

    def __init__(self, server: int | None) -> None:
        self._server = server

    def _server_s(self) -> float:
        return cpu_s(self._server) if self._server is not None else 0.0

    def __call__(self, call: Callable[[], object]) -> tuple[float, float, float]:
        """Wall, this process's CPU, the server's CPU."""
        server_s, cpu, started = self._server_s(), time.process_time(), time.perf_counter()
        call()
        return (time.perf_counter() - started, time.process_time() - cpu, self._server_s() - server_s)


def measure(graph: TopologyGraph, meter: Meter, edges: list[Edge]) -> dict[str, Any]:
    def observe(at_s: float) -> None:
        at_ns = START_NS + round(at_s * NS_PER_S)
        for start in range(0, len(edges), BATCH):
            graph.observe(TENANT, [replace(edge, last_seen_ns=at_ns) for edge in edges[start : start + BATCH]])

    first = meter(lambda: observe(0))
    again = [meter(partial(observe, 5.0 * one)) for one in range(1, ROUNDS + 1)][1:]
    wall, own, server = (statistics.median(column) for column in zip(*again, strict=True))
    now_ns = START_NS + round(5.0 * ROUNDS * NS_PER_S)
    same, changed = [], []
    for one in range(20):
        graph.observe(TENANT, [replace(edges[one], last_seen_ns=now_ns + one)])
        changed.append(1000 * meter(lambda: graph.snapshot(TENANT, at_ns=now_ns))[0])
        same += [1e6 * meter(lambda: graph.snapshot(TENANT, at_ns=now_ns))[0] for _ in range(10)]
    generator = random.Random(2)
    near: dict[str, Any] = {}
    for hops in (1, 2, 3):
        asked = [generator.choice(edges).caller for _ in range(ASKED)]
        graph.neighbours(TENANT, asked[0], hops=hops, at_ns=now_ns)  # a server plans a question once
        took = [1000 * meter(partial(graph.neighbours, TENANT, name, hops=hops, at_ns=now_ns))[0] for name in asked]
        near[f"{hops}"] = percentiles(took)
    return {
        "first_observe_edges_per_s": round(len(edges) / first[0]),
        "observe_edges_per_s": round(len(edges) / wall),
        "observe_edges_per_cpu_s": round(len(edges) / (own + server)),
        "observe_edges_per_client_cpu_s": round(len(edges) / own),
        "snapshot_after_a_change_ms": percentiles(changed),
        "snapshot_unchanged_us": percentiles(same),
        "neighbours_ms": near,
    }


def opened(make: Callable[[], TopologyGraph]) -> float:
    """Seconds until a new process would have its first snapshot."""
    started = time.perf_counter()
    graph = make()
    graph.snapshot(TENANT, at_ns=START_NS)
    took = time.perf_counter() - started
    graph.close()
    return round(took, 3)


def seen_elsewhere(writer: TopologyGraph, reader: TopologyGraph) -> dict[str, float]:
    """Seconds from a write in one process to another one's snapshot."""
    took = []
    reader.snapshot(TENANT, at_ns=START_NS)
    for one in range(20):
        new = Edge(caller="service:default/0", callee=f"service:new/{one}", last_seen_ns=START_NS)
        started = time.perf_counter()
        writer.observe(TENANT, [new])
        while f"service:new/{one}" not in reader.snapshot(TENANT, at_ns=START_NS).by_entity:
            time.sleep(0.01)
        took.append(time.perf_counter() - started)
    return percentiles(took)


def main() -> None:
    where, edges = about("bench_topology_graphs.py"), estate()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        embedded = EmbeddedTopology(folder / "topology.db")
        results = {"sqlite": measure(embedded, Meter(None), edges)}
        embedded.close()
        results["sqlite"]["open_s"] = opened(lambda: EmbeddedTopology(folder / "topology.db"))
        with neo4j(folder, quick=False) as server:
            graphs = [Neo4jTopology(server.uri, user=server.user, password=server.password) for _ in range(2)]
            results["neo4j"] = measure(graphs[0], Meter(server.pid), edges)
            results["neo4j"]["open_s"] = opened(
                lambda: Neo4jTopology(server.uri, user=server.user, password=server.password)
            )
            results["neo4j"]["seen_by_another_process_s"] = seen_elsewhere(*graphs)
            for graph in graphs:
                graph.close()
    write("topology_graphs", {"about": where, "entities": ENTITIES, "edges": EDGES, **results}, text(where, results))


def text(where: dict[str, Any], results: dict[str, dict[str, Any]]) -> str:
    rows: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
        ("edges observed for the first time, per second", lambda one: one["first_observe_edges_per_s"]),
        ("edges observed again, per second", lambda one: one["observe_edges_per_s"]),
        ("edges observed again, per CPU-second of client and server", lambda one: one["observe_edges_per_cpu_s"]),
        ("edges observed again, per CPU-second of the client", lambda one: one["observe_edges_per_client_cpu_s"]),
        ("snapshot, nothing changed, µs p50 / p99", lambda one: _two(one["snapshot_unchanged_us"])),
        ("snapshot after a change, ms p50 / p99", lambda one: _two(one["snapshot_after_a_change_ms"])),
        ("neighbours within 1 hop, ms p50 / p99", lambda one: _two(one["neighbours_ms"]["1"])),
        ("neighbours within 2 hops, ms p50 / p99", lambda one: _two(one["neighbours_ms"]["2"])),
        ("neighbours within 3 hops, ms p50 / p99", lambda one: _two(one["neighbours_ms"]["3"])),
        ("new process to its first snapshot, s", lambda one: one["open_s"]),
        ("seen by another process, s p50 / p99", lambda one: _two(one.get("seen_by_another_process_s"))),
    ]
    table = "".join(f"| {name} | {get(results['sqlite'])} | {get(results['neo4j'])} |\n" for name, get in rows)
    return (
        heading("The topology graph in SQLite and in Neo4j", where)
        + f"{ENTITIES} entities, {EDGES} edges, {BATCH} edges an `observe`, durable on return. SQLite runs in this "
        "process; Neo4j 5.26 beside it on the same machine, with a heap of 384 MiB.\n\n"
        "| | SQLite | Neo4j |\n|---|---|---|\n" + table
        + "\nSnapshots come from memory in both. Neighbours are asked of the copy in memory (SQLite) and of the server "
        "(Neo4j); a new process's first snapshot holds the start of its connection and the reading of all rows.\n"
    )  # fmt: skip


def _two(found: dict[str, float] | None) -> str:
    return f"{found['p50']} / {found['p99']}" if found else "-"


if __name__ == "__main__":
    main()
