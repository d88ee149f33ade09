"""Document stores beside each other in one run: what is written per CPU-second, searches per second, bytes on disk.

Run: `python tests/benchmarks/bench_documents_stores.py [LINES]` from the repository root; a few minutes with 200 000
log lines (the default). Writes `results/documents_stores.md` and `.json`. CPU of Elasticsearch is the client's and the
server's together; the server is compiled fully, which takes a part of its CPU in a run this short.
"""

from __future__ import annotations

import functools
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.measure import about, heading, percentiles, write
from tests.servers.elasticsearch import elasticsearch

from headspring.knowledge.documents.elasticsearch.settings import ElasticsearchSettings
from headspring.knowledge.documents.elasticsearch.store import ElasticsearchDocumentStore
from headspring.knowledge.documents.port import DocumentStore
from headspring.knowledge.documents.sqlite import SqliteDocumentStore
from headspring.knowledge.testing.documents import alert, incident
from headspring.proto.clock import NS_PER_S
from headspring.proto.telemetry import LogBatch, LogRecord

LINES_A_BATCH = 250
BATCHES_A_CALL = 4
"""What a stage hands over at one time: lines of a few services."""
ALERTS_A_CALL = 200
ALERTS = 20_000
SEARCHES = 300
_START_NS = 1_772_323_200 * NS_PER_S
_WORDS = [
    "request", "response", "timeout", "connection", "refused", "retry", "payment", "cart", "checkout", "user",
    "session", "cache", "miss", "hit", "pool", "exhausted", "upstream", "gateway", "database", "query", "slow",
    "commit", "rollback", "queue", "consumer", "lag", "deploy", "version", "started", "stopped", "healthy",
]  # fmt: skip


def log_batches(lines: int) -> list[LogBatch]:
    """Lines of 20 services over six hours: nine words, a number of its own, three attributes."""
    generator = random.Random(4)
    step_ns = 6 * 3600 * NS_PER_S // lines
    batches = []
    for start in range(0, lines, LINES_A_BATCH):
        records = tuple(
            LogRecord(
                time_ns=_START_NS + (start + one) * step_ns,
                severity_number=17 if generator.random() < 0.05 else 9,
                severity_text="INFO",
                body=f"{' '.join(generator.choices(_WORDS, k=9))} order={generator.randrange(10**9)}",
                trace_id=f"{generator.getrandbits(128):032x}",
                span_id=f"{generator.getrandbits(64):016x}",
                attributes={"http.route": f"/api/{generator.choice(_WORDS)}", "host": f"node-{generator.randrange(9)}",
                            "status": str(generator.choice((200, 200, 404, 500)))},
            )
            for one in range(LINES_A_BATCH)
        )  # fmt: skip
        service = f"service:shop/s{generator.randrange(20)}"
        batches.append(LogBatch(tenant="t", entity=service, received_ns=records[-1].time_ns, records=records))
    return batches


class Meter:
    """CPU of this process and of a server."""

    def __init__(self, server: int | None) -> None:
        self._own = psutil.Process()
        self._server = psutil.Process(server) if server else None

    def cpu_s(self) -> tuple[float, float]:
        """Of this process and of the server so far, seconds."""
        own, server = self._own.cpu_times(), self._server.cpu_times() if self._server else None
        return own.user + own.system, server.user + server.system if server else 0.0

    def measure(self, work: Callable[[], int]) -> dict[str, float]:
        """`work` returns how many things it did."""
        own, server = self.cpu_s()
        started = time.perf_counter()
        done = work()
        wall_s = time.perf_counter() - started
        own_after, server_after = self.cpu_s()
        own_s, server_s = own_after - own, server_after - server
        return {
            "count": done,
            "per_s": round(done / wall_s),
            "per_cpu_s": round(done / (own_s + server_s)),
            "own_cpu_s": round(own_s, 2),
            "server_cpu_s": round(server_s, 2),
        }


def written(store: DocumentStore, batches: Sequence[LogBatch], meter: Meter) -> dict[str, Any]:
    """What writing takes. Everything is durable when a call returns."""

    def put_logs(some: Sequence[LogBatch]) -> int:
        for start in range(0, len(some), BATCHES_A_CALL):
            store.put_all(some[start : start + BATCHES_A_CALL])
        return sum(len(batch.records) for batch in some)

    def put_alerts(updated_ns: int) -> int:
        for start in range(0, ALERTS, ALERTS_A_CALL):
            store.put_all(
                [
                    replace(
                        alert(f"al-{one}", starts_ns=_START_NS + one, updated_ns=updated_ns),
                        entity=f"service:shop/s{one % 20}", labels={"service": f"s{one % 20}", "zone": "a"},
                        summary="latency of checkout is 4.2 times what it was",
                    )
                    for one in range(start, start + ALERTS_A_CALL)
                ]
            )  # fmt: skip
        return ALERTS

    def put_incidents() -> int:
        for one in range(200):
            store.put_incident(incident(f"in-{one}", opened_ns=_START_NS + one, title=f"Checkout is slow {one}"))
        return 200

    warm = len(batches) // 10
    put_logs(batches[:warm])
    return {
        "log lines": meter.measure(lambda: put_logs(batches[warm:])),
        "log lines again (a replay)": meter.measure(lambda: put_logs(batches[warm : 3 * warm])),
        "alerts, new": meter.measure(lambda: put_alerts(1)),
        "alerts, updated": meter.measure(lambda: put_alerts(2)),
        "incidents, one a call": meter.measure(put_incidents),
    }


def searched(store: DocumentStore, meter: Meter) -> dict[str, Any]:
    """What is asked: by the pages of the UI, and by a diagnosis (all lines of a window, 1 000 a page)."""
    store.settle()
    generator = random.Random(5)

    def word() -> int:
        return len(store.search_logs("t", generator.choice(_WORDS), limit=50).items)

    def rare() -> int:
        two = " ".join(generator.sample(_WORDS, 4))
        return len(store.search_logs("t", two, entity=f"service:shop/s{generator.randrange(20)}", limit=50).items)

    def errors() -> int:
        start_ns = _START_NS + generator.randrange(5 * 3600) * NS_PER_S
        page = store.search_logs(
            "t", "", min_severity=17, start_ns=start_ns, end_ns=start_ns + 600 * NS_PER_S, limit=50
        )
        return len(page.items)

    def window() -> int:
        start_ns = _START_NS + generator.randrange(5 * 3600) * NS_PER_S
        page = store.search_logs("t", "", start_ns=start_ns, end_ns=start_ns + 600 * NS_PER_S, limit=1000)
        return len(page.items)

    def open_alerts() -> int:
        return len(store.alerts("t", status="firing", entity=f"service:shop/s{generator.randrange(20)}").items)

    def incidents() -> int:
        return len(store.incidents("t", states=("open",), text=f"slow {generator.randrange(200)}").items)

    def by_id() -> int:
        return int(store.alert("t", f"al-{generator.randrange(ALERTS)}") is not None)

    kinds = {
        f"log lines with one of {len(_WORDS)} words": word, "log lines with four words, of one service": rare,
        "errors in ten minutes": errors, "1 000 lines of ten minutes": window, "alerts of one service": open_alerts,
        "incidents by words": incidents, "an alert by id": by_id,
    }  # fmt: skip
    result: dict[str, Any] = {}
    for name, ask in kinds.items():
        count = SEARCHES // 6 if "1 000" in name else SEARCHES
        for _ in range(count // 4):
            ask()
        times: list[float] = []

        one = functools.partial(_ask, ask, times, ask in (rare, errors))
        result[name] = meter.measure(functools.partial(_repeat, one, count))
        result[name]["ms"] = percentiles(times)
        with ThreadPoolExecutor(4) as pool:
            started = time.perf_counter()
            list(pool.map(lambda ask: ask(), [one] * count))
            result[name]["per_s_of_4_threads"] = round(count / (time.perf_counter() - started))
    return result


def _ask(ask: Callable[[], int], times: list[float], may_be_empty: bool) -> None:
    started = time.perf_counter()
    found = ask()
    times.append((time.perf_counter() - started) * 1000)
    if not found and not may_be_empty:
        raise RuntimeError("a search that must find something found nothing")


def _repeat(ask: Callable[[], None], count: int) -> int:
    for _ in range(count):
        ask()
    return count


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def sqlite(folder: Path) -> Iterator[tuple[DocumentStore, Meter, Callable[[], int]]]:
    store = SqliteDocumentStore(folder / "documents.db")
    yield store, Meter(None), lambda: bytes_below(folder)
    store.close()


@contextmanager
def on_elasticsearch(folder: Path) -> Iterator[tuple[DocumentStore, Meter, Callable[[], int]]]:
    with elasticsearch(
        folder, heap="1g", fast_start=False, settings={"indices.memory.index_buffer_size": "20%"}
    ) as node:
        settings = ElasticsearchSettings(urls=(node.url,), read_timeout_s=60.0, write_timeout_s=60.0)
        store = ElasticsearchDocumentStore(settings)
        yield store, Meter(node.pid), lambda: bytes_below(folder / "elasticsearch" / "data")
        store.close()


def main(lines: int) -> None:
    result: dict[str, Any] = {"about": about("bench_documents_stores.py"), "log_lines": lines, "stores": {}}
    batches = log_batches(lines)
    for name, opened in (("sqlite", sqlite), ("elasticsearch", on_elasticsearch)):
        folder = Path(tempfile.mkdtemp(prefix="documents-"))
        try:
            with opened(folder) as (store, meter, size):
                one: dict[str, Any] = {"written": written(store, batches, meter)}
                one["searched"] = searched(store, meter)
                one["bytes_on_disk"] = size()
                result["stores"][name] = one
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    write("documents_stores", result, _text(result))


def _text(result: dict[str, Any]) -> str:
    stores = result["stores"]
    lines = [
        heading("Document stores: SQLite and Elasticsearch", result["about"]),
        f"{result['log_lines']} log lines of about 110 characters with three attributes, {BATCHES_A_CALL} batches of "
        f"{LINES_A_BATCH} a call; {ALERTS} alerts, {ALERTS_A_CALL} a call. One Elasticsearch node (1 GiB heap) on "
        "the same machine. CPU is this process' and the server's together. Durable on return: SQLite fsyncs a "
        "transaction, Elasticsearch its translog.\n\n",
        "| written | SQLite, per CPU-s | per s | Elasticsearch, per CPU-s | of it the client's CPU | per s |\n",
        "|---|--:|--:|--:|--:|--:|\n",
    ]
    for name, own in stores["sqlite"]["written"].items():
        other = stores["elasticsearch"]["written"][name]
        share = other["own_cpu_s"] / (other["own_cpu_s"] + other["server_cpu_s"])
        lines.append(
            f"| {name} | {own['per_cpu_s']:,} | {own['per_s']:,} | {other['per_cpu_s']:,} | {share:.0%} | "
            f"{other['per_s']:,} |\n"
        )
    lines += [
        "\n| searched | SQLite, ms p50 / p99 | per s, 4 threads | Elasticsearch, ms p50 / p99 | per s, 4 threads |\n",
        "|---|--:|--:|--:|--:|\n",
    ]
    for name, own in stores["sqlite"]["searched"].items():
        other = stores["elasticsearch"]["searched"][name]
        cells = " | ".join(
            f"{one['ms']['p50']:.1f} / {one['ms']['p99']:.1f} | {one['per_s_of_4_threads']:,}" for one in (own, other)
        )
        lines.append(f"| {name} | {cells} |\n")
    sizes = ", ".join(f"{name} {one['bytes_on_disk'] / 2**20:.0f} MiB" for name, one in stores.items())
    lines.append(f"\nOn the disk after all of it: {sizes}.\n")
    return "".join(lines)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
