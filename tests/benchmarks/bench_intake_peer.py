"""Samples taken in per CPU second, beside Debian's vmagent and VictoriaMetrics: real processes, the same bodies.

Run: `python tests/benchmarks/bench_intake_peer.py` from the repository root; under four minutes. An argument sets the
number of rounds. In each round a load generator of its own makes bodies, and every server gets the same ones, in an
order that turns from round to round, as fast as it acknowledges over two connections. A server's CPU time is that of
its process tree, from before the first request until nothing is pending any more, and at least 1.2 s after
the last answer, so work put off is counted. The generator and the sink behind vmagent are not counted.

The platform is measured twice: its intake with the log that syncs, as a process with nothing behind it, and
`headspring up` with windows, detection and stores. Last, every server gets one body a second: what a second of 10 000
series costs when they report once a second, as real ones do at most.
"""

from __future__ import annotations

import gzip
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.measure import ROOT, about, cpu_s, heading, write
from tests.benchmarks.metric_load import SERIES, WAYS, Sender
from tests.servers import debian
from tests.servers.headspring import headspring
from tests.servers.process import free_port, running
from tests.servers.victoria import PACKAGES, victoria_metrics
from tests.servers.vmagent import vmagent

ROUNDS = 5
ESTATES = 2
"""Of `SERIES` series each."""
BODIES = 60
"""In one round."""
STEP_MS = 50
"""Time between two samples of a series in a round; small, so that a round's samples are of about now."""
PACED_S = 10
SETTLE_S = 1.2
"""vmagent sends what it holds after one second at the latest (-remoteWrite.flushInterval)."""
IDLE_S = 5.0
OTLP = ("otlp", "otlp gzip")
WRITE = "remote write"


@dataclass(slots=True)
class Server:
    """A started server."""

    name: str
    url: str
    pid: int
    ways: tuple[str, ...]
    key: str = ""
    pending: Callable[[], float] = lambda: 0.0
    """What it has acknowledged and not yet worked off, in any unit."""
    idle_cores: float = 0.0
    runs: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def written(self) -> int:
        """Bytes that its processes had written to disk."""
        tree = (psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True))
        return sum(int(one.io_counters().write_bytes) for one in tree)

    def settle(self) -> None:
        """Returns when nothing is pending, `SETTLE_S` after the call at the earliest."""
        time.sleep(SETTLE_S)
        deadline = time.monotonic() + 60
        while self.pending() > 0:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} still has {self.pending()} pending after a minute")
            time.sleep(0.1)

    def take(self, sender: Sender, way: str, samples: int, *, every_s: float = 0.0) -> dict[str, float]:
        """Sends what `sender` prepared; what that cost."""
        cpu, disk, start = cpu_s(self.pid), self.written(), time.monotonic()
        sent = sender.send(self.url, way, key=self.key, every_s=every_s)
        if sent.pop("refused"):
            raise RuntimeError(f"{self.name} refused requests: {way}")
        self.settle()
        used = cpu_s(self.pid) - cpu
        return {
            "samples_per_cpu_s": samples / used,
            "samples_per_s": samples / sent.pop("wall_s"),
            "cpu_s": used,
            "until_settled_s": time.monotonic() - start,
            "disk_bytes_per_sample": (self.written() - disk) / samples,
            "rss_mib": psutil.Process(self.pid).memory_info().rss / 2**20,
            **sent,
        }


def _listener(url: str) -> int:
    """The process below this one that listens there."""
    port = urlsplit(url).port
    for process in psutil.Process().children(recursive=True):
        if any(one.laddr.port == port for one in process.net_connections(kind="tcp") if one.status == "LISTEN"):
            return int(process.pid)
    raise RuntimeError(f"nothing of ours listens at {url}")


def _total(url: str, *names: str) -> float:
    """Sum of these metrics, all their series, at a `/metrics` page."""
    lines = httpx2.get(f"{url}/metrics", timeout=30.0, trust_env=False).raise_for_status().text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.partition("{")[0].split(" ")[0] in names)


@contextmanager
def _intake(folder: Path) -> Iterator[Server]:
    port, key = free_port(), "hsk_" + secrets.token_urlsafe(32)
    url = f"http://127.0.0.1:{port}"
    argv = [sys.executable, str(ROOT / "tests" / "benchmarks" / "intake_alone.py"), str(folder), str(port)]
    env = {"HEADSPRING_BOOTSTRAP_KEY": key}
    with running(argv, health=f"{url}/health", log=folder / "intake.log", env=env, timeout_s=60) as process:
        yield Server("headspring, intake alone", url, process.pid, tuple(WAYS), key)


@contextmanager
def _platform(folder: Path) -> Iterator[Server]:
    with headspring(folder) as site:
        yield Server(
            "headspring, whole platform", site.otlp_url, _listener(site.url), tuple(WAYS), site.api_key,
            lambda: _total(site.url, "headspring_stage_lag_records"),
        )  # fmt: skip


@contextmanager
def _vmagent(folder: Path) -> Iterator[Server]:
    with vmagent(folder) as (url, pid):
        names = "vmagent_remotewrite_pending_data_bytes", "vmagent_remotewrite_pending_inmemory_blocks"
        yield Server("vmagent", url, pid, _spoken(url), pending=lambda: _total(url, *names))


@contextmanager
def _victoria(folder: Path) -> Iterator[Server]:
    with victoria_metrics(folder) as url:
        yield Server(
            "victoria-metrics", url, _listener(url), _spoken(url), pending=lambda: _total(url, "vm_pending_rows")
        )  # fmt: skip


def _spoken(url: str) -> tuple[str, ...]:
    """Remote write; Debian's 1.79.5 has no path for OTLP and answers 400."""
    found = httpx2.post(f"{url}/opentelemetry/api/v1/push", content=b"", timeout=10.0, trust_env=False).is_success
    if found:
        raise RuntimeError("this version takes OTLP: teach the benchmark its path, so that OTLP gets a peer")
    return (WRITE,)


def rounds(servers: list[Server], sender: Sender, count: int) -> None:
    """Every way to every server that speaks it, `count` times and once before to warm up."""
    for number in range(count + 1):
        for way in WAYS:
            able = [server for server in servers if way in server.ways]
            now_ms = time.time_ns() // 10**6
            sent_bytes = sender.prepare(way, count=BODIES, estates=ESTATES, start_ms=now_ms, step_ms=STEP_MS)
            samples = BODIES * SERIES
            turn = number % len(able)
            for server in able[turn:] + able[:turn]:
                run = server.take(sender, way, samples)
                run["bytes_per_sample"] = sent_bytes / samples
                server.runs.setdefault(way if number else f"first {way}", []).append(run)


def paced(servers: list[Server], sender: Sender) -> dict[str, Any]:
    """One body a second: cores that this takes, the rest of what a server does without load included."""
    result = {}
    for server in servers:
        now_ms = time.time_ns() // 10**6
        sender.prepare(WRITE, count=PACED_S, estates=1, start_ms=now_ms, step_ms=1000)
        run = server.take(sender, WRITE, PACED_S * SERIES, every_s=1.0)
        result[server.name] = {
            "cores": round(run["cpu_s"] / run["until_settled_s"], 3),
            "cores_idle": round(server.idle_cores, 3),
            "samples_per_cpu_s": round(run["samples_per_cpu_s"]),
            "acknowledged_p50_s": round(run["acknowledged_p50_s"], 4),
            "rss_mib": round(run["rss_mib"]),
        }
    return result


def idle(servers: list[Server]) -> None:
    """Cores that servers use while nobody sends."""
    start = [cpu_s(server.pid) for server in servers]
    time.sleep(IDLE_S)
    for server, before in zip(servers, start, strict=True):
        server.idle_cores = (cpu_s(server.pid) - before) / IDLE_S


def summary(server: Server) -> dict[str, Any]:
    """Median, least and most of every figure of every way."""
    ways = {}
    for way, runs in server.runs.items():
        ways[way] = {
            name: {
                label: _round(of([run[name] for run in runs]))
                for label, of in (("median", statistics.median), ("min", min), ("max", max))
            }
            for name in runs[0]
        }
    return ways


def ratio(server: Server, way: str, peer: Server) -> dict[str, float]:
    """Of samples per CPU second to the peer's remote write, round by round."""
    pairs = zip(server.runs[way], peer.runs[WRITE], strict=True)
    each = [mine["samples_per_cpu_s"] / other["samples_per_cpu_s"] for mine, other in pairs]
    return {"median": round(statistics.median(each), 2), "min": round(min(each), 2), "max": round(max(each), 2)}


def _round(value: float) -> float:
    return round(value) if value >= 1000 else round(value, 4)


def text(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [
        heading("Samples taken in per CPU second, beside vmagent", result["about"]) + result["load"] + "\n",
        "| server | way | samples per CPU-s: median (min to max) | ratio to vmagent | samples/s | acknowledged p50 s | "
        "disk bytes a sample | RSS MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, ways in result["servers"].items():
        for way in WAYS:
            if way not in ways:
                continue
            figures, compared = ways[way], result["ratio_to_vmagent"][name][way]
            speed = figures["samples_per_cpu_s"]
            lines.append(
                f"| {name} | {way} | {speed['median']:,} ({speed['min']:,} to {speed['max']:,}) | "
                f"{compared['median']} ({compared['min']} to {compared['max']}) | "
                f"{figures['samples_per_s']['median']:,} | {figures['acknowledged_p50_s']['median']} | "
                f"{figures['disk_bytes_per_sample']['median']:.1f} | {figures['rss_mib']['max']:.0f} |"
            )
    first = f"first {WRITE}"
    lines += [
        "",
        f"First sight of {ESTATES * SERIES:,} series, in remote write, CPU seconds of that whole round: "
        + ", ".join(f"{name} {ways[first]['cpu_s']['median']:.2f}" for name, ways in result["servers"].items())
        + ".",
        "",
        "One request of 10 000 samples a second, remote write:",
        "",
    ]
    lines += ["| server | cores | of these without load | samples per CPU-s | RSS MiB |", "|---|---|---|---|---|"]
    lines += [
        f"| {name} | {one['cores']} | {one['cores_idle']} | {one['samples_per_cpu_s']:,} | {one['rss_mib']} |"
        for name, one in result["paced"].items()
    ]
    return "\n".join([*lines, "", *(f"- {note}" for note in result["notes"])])


NOTES = (
    "Headspring answers when the samples are in its log and `fdatasync` has returned. vmagent answers when it has the "
    "samples in memory and sends blocks on from there, after -remoteWrite.flushInterval (1 s) at the latest; "
    "-remoteWrite.tmpDataPath takes what the receiver does not take in time. So what it acknowledged and has not sent "
    "is in memory only: it wrote nothing to disk in these rounds. VictoriaMetrics too answers from memory and writes "
    "parts later. The bytes written are the kernel's count per process.",
    "vmagent forwards: its CPU time holds packing and sending every sample on, to a sink that discards. Headspring's "
    "intake holds the log's write instead; what reads the log is in the figures of the whole platform only.",
    "Debian's vmagent and victoria-metrics 1.79.5 do not take OTLP (asked at each run), so OTLP has no peer here: its "
    "ratio is to vmagent's remote write of the same samples in the same round.",
    "CPU time comes in steps of 10 ms: about 6 % of the shortest rounds, and too coarse for more than one figure of "
    "the small ones in the paced table.",
    "All series are known before the rounds that count; the first round, with series nobody saw before, is in the "
    "JSON as `first WAY`. Each series gets a sample every 50 ms in a round, far more often than real ones: the whole "
    "platform's work per evaluation of a series is then shared by many samples. The paced table has one a second.",
)


def run(count: int) -> dict[str, Any]:
    """All of it."""
    details = about("bench_intake_peer.py")
    with tempfile.TemporaryDirectory() as name, Sender() as sender, ExitStack() as stack:
        servers = []
        for start in (_vmagent, _victoria, _intake, _platform):
            folder = Path(name) / start.__name__.strip("_")
            folder.mkdir()
            servers.append(stack.enter_context(start(folder)))
        rounds(servers, sender, count)
        idle(servers)
        peer, _, alone, whole = servers
        second_by_second = paced([peer, alone, whole], sender)
        return {
            "about": details | {"peer": _version(), "rounds": count},
            "load": f"{BODIES} requests of {SERIES:,} samples in a round, {ESTATES * SERIES:,} series of ten labels, "
            f"two connections; {count} rounds after one that does not count; every server got the same bodies.",
            "servers": {server.name: summary(server) for server in servers},
            "ratio_to_vmagent": {
                server.name: {way: ratio(server, way, peer) for way in server.ways} for server in servers
            },
            "paced": second_by_second,
            "notes": NOTES,
        }


def _version() -> str:
    """Package and version, out of the package's own changelog."""
    folder = debian.root("victoria", PACKAGES) / "usr" / "share" / "doc" / "victoria-metrics"
    with gzip.open(folder / "changelog.Debian.gz", "rt", encoding="utf-8") as file:
        return file.readline().partition(")")[0] + ")"


def main() -> None:
    result = run(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
    write("intake_peer", result, text(result))


if __name__ == "__main__":
    main()
