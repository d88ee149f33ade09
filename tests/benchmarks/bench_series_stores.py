"""Series stores beside each other: samples written per CPU second, queries per CPU second.

Run: `python tests/benchmarks/bench_series_stores.py [ROUNDS]` from the repository root; writes
`results/series_stores.json` and `.md`. Every round gives every store the same samples, one store after the other;
CPU time is ours and, where there is a server, the server's.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cramjam
import httpx2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.measure import about, cpu_s, heading, percentiles, write
from tests.servers.victoria import Victoria, flush, victoria

from headspring.knowledge.series import promql
from headspring.knowledge.series.duckdb_store import DuckDbSeriesStore
from headspring.knowledge.series.port import Matcher, MatchOp, SeriesStore
from headspring.knowledge.series.victoria import VictoriaSeriesStore
from headspring.knowledge.series.victoria.labels import LabelLimits, to_labels
from headspring.proto.clock import NS_PER_S
from headspring.proto.telemetry import MetricBatch, SeriesDescriptor

SERIES = 10_000
"""Of one writer's shards; each gets a sample every ten seconds."""
STEP_NS = 10 * NS_PER_S
SHAPES = {"one sample a series": (SERIES, 1), "ten samples a series": (SERIES // 10, 10)}
FLUSHES = 15
"""A round: as many flushes of 10 000 samples."""
HOUR = 360
"""Samples of an hour."""
TENANT = "default"


def described(number: int, *, name: str = "http_server_request_duration_seconds_count") -> SeriesDescriptor:
    """Ten labels, as a service instrumented by OpenTelemetry has them."""
    service = f"svc-{number % 50}"
    return SeriesDescriptor(
        series_id=number * 7919 + 1, tenant=TENANT, name=name, entity=f"service:shop/{service}", unit="s",
        labels={
            "service.name": service, "service.instance.id": f"{service}-{number % 250:08x}", "zone": f"z{number % 3}",
            "http.request.method": "GET", "http.route": f"/api/v1/items/{number % 40}", "url.scheme": "https",
            "http.response.status_code": "200", "deployment.environment": "production", "number": str(number),
        },
    )  # fmt: skip


def batch(series: Sequence[SeriesDescriptor], samples: int, first_ns: int, random: np.random.Generator) -> MetricBatch:
    """`samples` of each series, ten seconds apart."""
    ids = np.array([one.series_id for one in series], dtype=np.uint64).repeat(samples)
    offsets = np.tile(np.arange(samples) * STEP_NS, len(series)) + random.integers(0, NS_PER_S, ids.size)
    return MetricBatch(
        tenant=TENANT, received_ns=first_ns, series_id=ids, time_ns=first_ns + offsets,
        value=np.round(random.gamma(2.0, 50.0, ids.size), 6), kind=np.ones(ids.size, dtype=np.uint8),
    )  # fmt: skip


@dataclass
class Spent:
    """CPU seconds and wall seconds of one piece of work."""

    ours_s: float = 0.0
    server_s: float = 0.0
    wall_s: float = 0.0


@dataclass
class Meter:
    """Measures work of this process and of the server, if there is one."""

    server: Victoria | None = None
    rows: dict[str, list[tuple[int, Spent]]] = field(default_factory=dict)

    def measure(self, name: str, amount: int, work: Callable[[], object], *, count: bool = True) -> None:
        ours, server = time.process_time(), self._server()
        wall = time.perf_counter()
        work()
        spent = Spent(time.process_time() - ours, 0.0, time.perf_counter() - wall)
        if self.server is not None:
            flush(self.server.url)  # what the server puts off is its work all the same
            spent.server_s = self._server() - server
        if count:
            self.rows.setdefault(name, []).append((amount, spent))

    def _server(self) -> float:
        return cpu_s(self.server.pid) if self.server is not None else 0.0


def json_lines(server: Victoria, series: Sequence[SeriesDescriptor], packed: bool) -> Callable[[MetricBatch], None]:
    """The other way to write: `/api/v1/import`, with each series' labels as JSON made once."""
    client = httpx2.Client(base_url=server.url, timeout=60.0, trust_env=False)
    heads = {
        one.series_id: '{"metric":'
        + json.dumps(dict(to_labels(one, LabelLimits(max_labels=80)).labels))
        + ',"values":['
        for one in series
    }

    def send(samples: MetricBatch) -> None:
        order = np.argsort(samples.series_id, kind="stable")
        ids = samples.series_id[order]
        starts = np.flatnonzero(np.concatenate(([True], ids[1:] != ids[:-1])))
        values, times = samples.value[order].tolist(), (samples.time_ns[order] // 1_000_000).tolist()
        lines = []
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), ids.size], strict=True):
            numbers, stamps = ",".join(map(repr, values[start:end])), ",".join(map(str, times[start:end]))
            lines.append(f'{heads[int(ids[start])]}{numbers}],"timestamps":[{stamps}]}}\n')
        body, headers = "".join(lines).encode(), {}
        if packed:
            body, headers = bytes(cramjam.gzip.compress(body, level=1)), {"content-encoding": "gzip"}
        client.post("/api/v1/import", content=body, headers=headers).raise_for_status()

    return send


def stored(store: DuckDbSeriesStore | VictoriaSeriesStore) -> Callable[[MetricBatch], None]:
    """As the stage does that fills the store."""

    def send(one: MetricBatch) -> None:
        store.write(one)
        store.flush()

    return send


def write_rounds(rounds: int, embedded: DuckDbSeriesStore, server: Victoria, victoria_: VictoriaSeriesStore) -> Any:
    """Samples per CPU second by shape and way."""
    random, result = np.random.default_rng(1), {}
    start_ns = (time.time_ns() // NS_PER_S - 20 * 3600) * NS_PER_S
    for shape, (count, samples) in SHAPES.items():
        ways: dict[str, tuple[Meter, Callable[[MetricBatch], None]]] = {}

        series = {
            way: [described(number, name=f"{way}_{samples}".replace(" ", "_")) for number in range(count)]
            for way in ("duckdb", "victoria remote write", "victoria json", "victoria json gzip")
        }
        embedded.register(series["duckdb"])
        victoria_.register(series["victoria remote write"])
        ways["duckdb"] = (Meter(), stored(embedded))
        ways["victoria remote write"] = (Meter(server), stored(victoria_))
        ways["victoria json"] = (Meter(server), json_lines(server, series["victoria json"], packed=False))
        ways["victoria json gzip"] = (Meter(server), json_lines(server, series["victoria json gzip"], packed=True))
        for number in range(rounds + 1):
            for way, (meter, send) in ways.items():
                first = start_ns + number * FLUSHES * samples * STEP_NS
                batches = [
                    batch(series[way], samples, first + one * samples * STEP_NS, random) for one in range(FLUSHES)
                ]

                def work(send: Callable[[MetricBatch], None] = send, batches: list[MetricBatch] = batches) -> None:
                    for one in batches:
                        send(one)

                # The first round, with series that nobody saw before, is a figure of its own.
                meter.measure("first" if number == 0 else "known", FLUSHES * count * samples, work)
            start_ns += NS_PER_S  # no two rounds write the same times
        result[shape] = {way: summary(meter.rows) for way, (meter, _) in ways.items()}
    return result


def query_rounds(rounds: int, filled: Sequence[SeriesStore], stores: dict[str, tuple[Meter, SeriesStore]]) -> Any:
    """Answers per CPU second; every store holds the same hour of 1000 series."""
    random = np.random.default_rng(2)
    end_ns = (time.time_ns() // NS_PER_S - 60) * NS_PER_S
    start_ns = end_ns - HOUR * STEP_NS
    series = [described(number, name="hour") for number in range(1000)]
    whole = batch(series, HOUR, start_ns, random)
    for store in filled:
        store.register(series)
        store.write(whole)
        store.settle()
    named = Matcher(label="__name__", op=MatchOp.EQUAL, value="hour")
    entity = Matcher(label="__entity__", op=MatchOp.EQUAL, value="service:shop/svc-7")
    asks: dict[str, Callable[[SeriesStore], object]] = {
        "select 1000 series x 1 h": lambda store: store.select(TENANT, [named], start_ns=start_ns, end_ns=end_ns),
        "select 1000 series x 10 min": lambda store: store.select(
            TENANT, [named], start_ns=end_ns - 600 * NS_PER_S, end_ns=end_ns
        ),
        "select an entity's 20 series x 1 h": lambda store: store.select(
            TENANT, [named, entity], start_ns=start_ns, end_ns=end_ns
        ),
        "select 100 ids x 1 h": lambda store: store.select_ids(
            TENANT, [one.series_id for one in series[:100]], start_ns=start_ns, end_ns=end_ns
        ),
        "find 1000 series": lambda store: store.find(TENANT, [named]),
        "instant sum by (zone) (rate(…[5m])), 1000 series": lambda store: promql.evaluate_instant(
            "sum by (zone) (rate(hour[5m]))", store=store, tenant=TENANT, time_ns=end_ns
        ),
        "range avg(…) by (zone) over 1 h, 60 steps, 1000 series": lambda store: promql.evaluate_range(
            "avg(hour) by (zone)", store=store, tenant=TENANT, start_ns=start_ns, end_ns=end_ns, step_ns=60 * NS_PER_S
        ),
    }
    for number in range(rounds + 1):
        for name, ask in asks.items():
            for meter, store in stores.values():
                meter.measure(name, 1, lambda ask=ask, store=store: ask(store), count=number > 0)  # type: ignore[misc] # a lambda with defaults
    return {name: summary(meter.rows) for name, (meter, _) in stores.items()}


def summary(rows: dict[str, list[tuple[int, Spent]]]) -> dict[str, Any]:
    """By kind of work: amount per CPU second of ours, of the server and of both, and wall time."""
    result: dict[str, Any] = {}
    for name, taken in rows.items():
        amount = sum(one for one, _ in taken)
        ours, server = sum(one.ours_s for _, one in taken), sum(one.server_s for _, one in taken)
        each = [count / max(1e-9, one.ours_s + one.server_s) for count, one in taken]
        result[name] = {
            "per_cpu_s": round(statistics.median(each), 2),
            "min": round(min(each), 2),
            "max": round(max(each), 2),
            "per_cpu_s_ours": round(amount / max(1e-9, ours), 2),
            "per_cpu_s_server": round(amount / server, 2) if server else None,
            "wall_ms": percentiles([one.wall_s * 1e3 for _, one in taken]),
        }
    return result


def text_of(result: dict[str, Any]) -> str:
    lines = [
        heading("Series stores: written and queried per CPU second", result["about"]),
        f"{result['rounds']} rounds after one that does not count; in a round every store gets the same work, one "
        f"after the other. A flush is 10,000 samples, {FLUSHES} flushes a round. CPU is this process' and the server's "
        "(VictoriaMetrics 1.79.5, one node, 256 MiB of caches), which is told to write out what it put off.\n",
        "| written | way | samples per CPU-s (min to max) | of our CPU | of the server's | new series, per CPU-s |",
        "|---|---|---|---|---|---|",
    ]
    for shape, ways in result["written"].items():
        for way, row in ways.items():
            known, first = row["known"], row["first"]
            server = f"{known['per_cpu_s_server']:,.0f}" if known["per_cpu_s_server"] else ""
            lines.append(
                f"| {shape} | {way} | {known['per_cpu_s']:,.0f} ({known['min']:,.0f} to {known['max']:,.0f}) | "
                f"{known['per_cpu_s_ours']:,.0f} | {server} | {first['per_cpu_s']:,.0f} |"
            )
    lines += [
        "",
        "| query | DuckDB per CPU-s | p50 ms | VictoriaMetrics per CPU-s | ours | the server's | p50 ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in result["queried"]["duckdb"].items():
        other = result["queried"]["victoria"][name]
        server = f"{other['per_cpu_s_server']:.1f}" if other["per_cpu_s_server"] else "too little to see"
        lines.append(
            f"| {name} | {row['per_cpu_s']:.1f} | {row['wall_ms']['p50']:.1f} | {other['per_cpu_s']:.1f} | "
            f"{other['per_cpu_s_ours']:.1f} | {server} | {other['wall_ms']['p50']:.1f} |"
        )
    lines += ["", "- CPU time of the server comes in steps of 10 ms: single short queries are measured coarsely."]
    return "\n".join(lines)


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        facts = about(f"bench_series_stores.py {rounds}")
        with victoria(folder) as server:
            embedded, ours = DuckDbSeriesStore(folder / "series.duckdb"), VictoriaSeriesStore(server.url)
            written = write_rounds(rounds, embedded, server, ours)
            reader = VictoriaSeriesStore(server.url)  # as another process has it
            queried = query_rounds(
                max(rounds, 10), (embedded, ours), {"duckdb": (Meter(), embedded), "victoria": (Meter(server), reader)}
            )
            embedded.close()
            ours.close()
            reader.close()
    result = {"about": facts, "rounds": rounds, "written": written, "queried": queried}
    write("series_stores", result, text_of(result))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
