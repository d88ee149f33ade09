"""Every server and every role of the distributed shape on this machine: `python -m tests.servers.stack up|down|status`.

One process holds them all (`serve`, started by `up` in the background) and takes them down with itself. What it holds
is empty at the start and gone at the end: for trying things and for tests.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa
from tests.servers.elasticsearch import elasticsearch
from tests.servers.flink import flink
from tests.servers.kafka import kafka
from tests.servers.minio import minio
from tests.servers.neo4j import neo4j
from tests.servers.postgres import postgres
from tests.servers.process import free_port, healthy, running
from tests.servers.redis import redis
from tests.servers.victoria import victoria_metrics

from headspring.gateway.runtime.shape import SHAPE

PARTITIONS = 4
_ROLE_START_S = 180.0
_SUBMIT_TIMEOUT_S = 240.0
_UP_TIMEOUT_S = 420.0
_DOWN_TIMEOUT_S = 90.0

FLINK = "flink"
"""Among what the servers say: its environment, for who submits; no role needs it."""

Settings = dict[str, Any]


def _kafka(stack: ExitStack, folder: Path) -> Settings:
    return {"kafka": stack.enter_context(kafka(folder)).servers, "replication": 1, "partitions": PARTITIONS}


def _victoria(stack: ExitStack, folder: Path) -> Settings:
    return {"victoria_url": stack.enter_context(victoria_metrics(folder))}


def _elasticsearch(stack: ExitStack, folder: Path) -> Settings:
    return {"elasticsearch_url": stack.enter_context(elasticsearch(folder)).url}


def _neo4j(stack: ExitStack, folder: Path) -> Settings:
    server = stack.enter_context(neo4j(folder))
    return {"neo4j_url": server.uri, "neo4j_user": server.user, "neo4j_password": server.password}


def _redis(stack: ExitStack, folder: Path) -> Settings:
    server = stack.enter_context(redis(folder))
    return {"redis_url": server.url, "redis_password": server.password}


def _minio(stack: ExitStack, folder: Path) -> Settings:
    server = stack.enter_context(minio(folder))
    return {"minio_url": server.url, "minio_user": server.user, "minio_password": server.password}


def _postgres(stack: ExitStack, folder: Path) -> Settings:
    server = stack.enter_context(postgres(folder))
    url = sa.make_url(server.url)
    return {
        "postgres_url": url.set(password=None).render_as_string(),
        "postgres_password": url.password,
    }


def _flink(stack: ExitStack, folder: Path) -> Settings:
    cluster = stack.enter_context(flink(folder))
    return {"windows": "flink", "flink_url": cluster.rest, FLINK: str(cluster.environment)}


SERVERS: dict[str, Callable[[ExitStack, Path], Settings]] = {
    "kafka": _kafka, "victoria": _victoria, "elasticsearch": _elasticsearch, "neo4j": _neo4j, "redis": _redis,
    "minio": _minio, "postgres": _postgres,
}  # fmt: skip


@contextmanager
def servers(folder: Path, say: Callable[[str], None], *, with_flink: bool = False) -> Iterator[Settings]:
    """All servers, started side by side; the settings that lead to them.

    Args:
        with_flink: Flink too, for the windows; `submit` gives it the job.
    """
    kinds = SERVERS | {FLINK: _flink} if with_flink else SERVERS
    stacks = {name: ExitStack() for name in kinds}
    with ExitStack() as everything:
        for stack in stacks.values():
            everything.enter_context(stack)
        settings: Settings = {}

        def begin(name: str) -> Settings:
            started = time.monotonic()
            place = folder / name
            place.mkdir(parents=True)
            found = kinds[name](stacks[name], place)
            say(f"{name}: ready in {time.monotonic() - started:.1f} s")
            return found

        with ThreadPoolExecutor(4) as pool:
            for found in [pool.submit(begin, name) for name in kinds]:
                settings |= found.result()
        yield settings


def configure(folder: Path, settings: Settings) -> dict[str, Any]:
    """Writes the settings file of all roles; addresses, the first admin key, and where the file is."""
    config = folder / "headspring.toml"
    environment = settings.get(FLINK)
    ports = {setting: free_port() for shape in SHAPE for setting in shape.doors}
    shop_port = free_port()
    settings = {
        **{name: value for name, value in settings.items() if name != FLINK},
        **ports, "secrets": str(folder / "secrets"), "ops_url": f"http://127.0.0.1:{shop_port}",
        "public_url": f"http://127.0.0.1:{ports['port']}",
    }  # fmt: skip
    config.touch(mode=0o600)
    config.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
    return {
        "config": str(config), "url": settings["public_url"], "otlp": f"http://127.0.0.1:{ports['otlp_port']}",
        "grpc": f"127.0.0.1:{ports['grpc_port']}", "key": "hsk_" + secrets.token_urlsafe(32), "shop_port": shop_port,
        **({FLINK: environment} if environment else {}),
    }  # fmt: skip


def submit(place: dict[str, Any], say: Callable[[str], None]) -> None:
    """Gives the windows to Flink as an operator would; returns when they run.

    Raises:
        RuntimeError: they do not; holds what was said.
    """
    started = time.monotonic()
    argv = [
        str(Path(sys.executable).with_name("headspring")), "flink", "submit", "--file", place["config"],
        "--environment", place[FLINK], "-o", "json",
    ]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_SUBMIT_TIMEOUT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"flink submit ended with {done.returncode}: {done.stderr[-2000:]}")
    say(f"windows on Flink: {json.loads(done.stdout)['state']} after {time.monotonic() - started:.1f} s")


@contextmanager
def role(
    name: str, folder: Path, place: dict[str, Any], *, environ: dict[str, str] | None = None
) -> Iterator[dict[str, Any]]:
    """One process of a role, ready; its id and the address of its health. More of the same role may run beside it."""
    health = free_port()
    number = sum(1 for _ in folder.glob(f"roles/{name}-*"))
    data = folder / "roles" / f"{name}-{number}"
    data.mkdir(parents=True)
    argv = [
        str(Path(sys.executable).with_name("headspring")), "run", name, "--config", place["config"],
        "--data", str(data), "--health-port", str(health),
    ]  # fmt: skip
    with running(
        argv, health=f"http://127.0.0.1:{health}/readyz", log=folder / f"{name}-{number}.log", timeout_s=_ROLE_START_S,
        env={"HEADSPRING_BOOTSTRAP_KEY": place["key"], **(environ or {})},
    ) as process:  # fmt: skip
        yield {"pid": process.pid, "health": f"http://127.0.0.1:{health}", "log": str(folder / f"{name}-{number}.log")}


@contextmanager
def roles(folder: Path, place: dict[str, Any], say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Every role as a process; `place` with them in it."""
    with ExitStack() as stack:
        found: dict[str, Any] = {**place, "roles": {}}

        def begin(name: str, own: ExitStack) -> dict[str, Any]:
            started = time.monotonic()
            one = own.enter_context(role(name, folder, place))
            say(f"{name}: ready in {time.monotonic() - started:.1f} s")
            return one

        owns = {shape.name: stack.enter_context(ExitStack()) for shape in SHAPE}
        with ThreadPoolExecutor(2) as pool:
            started = {name: pool.submit(begin, name, own) for name, own in owns.items()}
            for name, one in started.items():
                found["roles"][name] = one.result()
        yield found


def serve(folder: Path, *, with_flink: bool) -> int:
    """Holds everything until SIGTERM; `stack.json` appears when all is ready."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    with ExitStack() as stack:
        place = configure(folder, stack.enter_context(servers(folder / "servers", say, with_flink=with_flink)))
        if with_flink:
            submit(place, say)
        found = stack.enter_context(roles(folder, place, say))
        fresh = folder / "stack.new"
        fresh.touch(mode=0o600)
        fresh.write_text(json.dumps({**found, "pid": os.getpid()}, indent=2))
        fresh.rename(folder / "stack.json")
        while not stop.wait(1.0):
            for name, one in found["roles"].items():
                if not psutil.pid_exists(one["pid"]):
                    say(f"{name}: ended; its log is {one['log']}")
        say("stopping")
    return 0


def up(folder: Path, *, with_flink: bool) -> int:
    """Starts `serve` in the background and returns when all is ready."""
    if describe(folder) is not None:
        sys.stdout.write(f"the stack runs already; it is described in {folder / 'stack.json'}\n")
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="stack-", dir=folder))
    log = folder / "stack.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "tests.servers.stack", "serve", "--folder", str(work),
                *(["--flink"] if with_flink else []),
            ],
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    shown, deadline = 0, time.monotonic() + _UP_TIMEOUT_S
    while not (work / "stack.json").exists():
        text = log.read_text(errors="replace")
        sys.stdout.write(text[shown:])
        sys.stdout.flush()
        shown = len(text)
        if process.poll() is not None or time.monotonic() > deadline:
            sys.stdout.write(f"✗ the stack did not start; its logs are in {work}\n")
            process.terminate()
            return 1
        time.sleep(0.3)
    (folder / "stack.json").write_text((work / "stack.json").read_text())
    (folder / "stack.json").chmod(0o600)
    found = json.loads((folder / "stack.json").read_text())
    sys.stdout.write(log.read_text(errors="replace")[shown:])
    sys.stdout.write(f"web UI and API {found['url']}\nOTLP {found['otlp']}\nadmin API key {found['key']}\n")
    return 0


def down(folder: Path) -> int:
    """Stops everything and removes what it held."""
    import shutil

    found = describe(folder)
    if found is None:
        sys.stdout.write("no stack runs\n")
    else:
        process = psutil.Process(found["pid"])
        process.terminate()
        try:
            process.wait(_DOWN_TIMEOUT_S)
        except psutil.TimeoutExpired:
            for child in (*process.children(recursive=True), process):
                child.kill()
        sys.stdout.write("stopped\n")
    for left in folder.glob("stack-*"):
        shutil.rmtree(left, ignore_errors=True)
    (folder / "stack.json").unlink(missing_ok=True)
    return 0


def describe(folder: Path) -> dict[str, Any] | None:
    """What `up` left, while it runs."""
    file = folder / "stack.json"
    if not file.exists():
        return None
    found: dict[str, Any] = json.loads(file.read_text())
    return found if psutil.pid_exists(found["pid"]) and healthy(f"{found['url']}/api/v1/ready") else None


def memory(pid: int) -> list[tuple[str, int]]:
    """Name and resident bytes of every process below one, largest first."""
    rows = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            argv = process.cmdline()
            rows.append((_named(argv), process.memory_info().rss))
        except psutil.NoSuchProcess:
            continue
    totals: dict[str, int] = {}
    for name, size in rows:
        totals[name] = totals.get(name, 0) + size
    return sorted(totals.items(), key=lambda row: -row[1])


def _named(argv: Sequence[str]) -> str:
    text = " ".join(argv)
    for shape in SHAPE:
        if f" run {shape.name} " in text:
            return shape.name
    for name, mark in (
        ("kafka", "kafka.Kafka"), ("neo4j", "CommunityEntryPoint"), ("elasticsearch", "elasticsearch"),
        ("victoria", "victoria-metrics"), ("minio", "minio"), ("redis", "redis-server"), ("postgres", "postgres"),
        ("flink jobmanager", "StandaloneSession"), ("flink taskmanager", "TaskManagerRunner"),
        ("flink zookeeper", "FlinkZooKeeperQuorumPeer"),
    ):  # fmt: skip
        if mark in text:
            return name
    return Path(argv[0]).name if argv else "?"


def status(folder: Path) -> int:
    """Memory of each part, and whether every role is ready."""
    found = describe(folder)
    if found is None:
        sys.stdout.write("no stack runs\n")
        return 1
    rows = memory(found["pid"])
    for name, size in rows:
        one = found["roles"].get(name)
        state = "" if one is None else "ready" if healthy(f"{one['health']}/readyz") else "NOT READY"
        sys.stdout.write(f"{name:20} {size / 2**20:8.0f} MiB  {state}\n")
    sys.stdout.write(f"{'all':20} {sum(size for _, size in rows) / 2**20:8.0f} MiB\n")
    return 0


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="stack", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=("up", "down", "status", "serve"))
    parser.add_argument("--folder", type=Path, default=Path(".stack"), help="where its logs and addresses are")
    parser.add_argument("--flink", action="store_true", help="with Flink, which then computes the windows")
    options = parser.parse_args(arguments)
    folder = options.folder.resolve()
    if options.command in ("up", "serve"):
        return (up if options.command == "up" else serve)(folder, with_flink=options.flink)
    return (down if options.command == "down" else status)(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
