"""The running shop: its processes, their versions and faults, and what operators may do to them.

A restart is rolling: the new process is ready on the shared port before the old one is asked to stop.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from headspring.gateway.demo import estate
from headspring.gateway.demo.processes import Child, Export, instrumented, telemetry_env
from headspring.gateway.demo.shop_life import shared_socket
from headspring.proto.errors import BackendError, Conflict, NotFound, Unavailable

MAX_REPLICAS = 3
_LOG = logging.getLogger(__name__)
_PACKAGE = "headspring.gateway.demo"


@dataclass(slots=True, kw_only=True)
class Running:
    """One service: what it should be, and the processes it is."""

    name: str
    port: int
    version: str = estate.GOOD_VERSION
    previous: str = ""
    delay_s: float = 0.0
    error_ratio: float = 0.0
    replicas: int = 1
    children: list[Child] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def state(self) -> str:
        alive = sum(child.alive for child in self.children)
        return "running" if alive >= self.replicas else "degraded" if alive else "down"

    def report(self) -> dict[str, Any]:
        """What `GET /services/{name}` answers."""
        alive = [child for child in self.children if child.alive]
        now = time.monotonic()
        return {
            "name": self.name, "entity": estate.entity(self.name), "state": self.state, "version": self.version,
            "previous_version": self.previous, "replicas": self.replicas, "pid": alive[0].pid if alive else None,
            "pids": [child.pid for child in alive],
            "uptime_s": round(min((now - child.started for child in alive), default=0.0), 3),
            "faults": {"delay_s": self.delay_s, "error_ratio": self.error_ratio},
        }  # fmt: skip


class Shop:
    """All of it. Calls may come from several threads; each service does one thing at a time."""

    def __init__(self, folder: Path, export: Export, *, platform_url: str, rate: float) -> None:
        self._folder = folder
        self._logs = folder / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._export = export
        self._platform_url = platform_url.rstrip("/")
        self._rate = rate
        # Bound but not listening: the ports stay ours while nothing serves them, and callers are refused.
        self._held = {name: shared_socket(0) for name in estate.NAMES}
        ports = {name: int(held.getsockname()[1]) for name, held in self._held.items()}
        self._addresses = json.dumps(ports)
        self.services = {name: Running(name=name, port=port) for name, port in ports.items()}
        self._load: Child | None = None
        self._figures: dict[str, Any] = {}
        self._http = httpx2.Client(timeout=5.0, trust_env=False)
        self._retired: list[Child] = []

    def start(self) -> None:
        """Starts every service at once, then the customers.

        Raises:
            Unavailable: a process did not start.
        """
        with ThreadPoolExecutor(len(self.services)) as pool:
            for done in [pool.submit(self._fill, service) for service in self.services.values()]:
                done.result()
        self._load = Child(
            [*_python(f"{_PACKAGE}.load"), "--port", str(self.services[estate.ENTRY].port), "--rate", str(self._rate)],
            os.environ, self._logs / "load.log", ready=False,
        )  # fmt: skip
        threading.Thread(target=self._read_figures, name="figures", daemon=True).start()

    def stop(self) -> None:
        """Stops customers and services; nothing of ours runs afterwards."""
        everything = [child for service in self.services.values() for child in service.children] + self._retired
        if self._load:
            self._load.stop()
        for child in everything:
            child.terminate()
        for child in everything:
            child.stop()
        for held in self._held.values():
            held.close()
        self._http.close()

    def service(self, name: str) -> Running:
        """
        Raises:
            NotFound: the shop has no such service; the message lists those it has.
        """
        if name not in self.services:
            raise NotFound(f"no service {name[:80]!r} in the shop; wanted one of {', '.join(estate.NAMES)}")
        return self.services[name]

    def status(self) -> dict[str, Any]:
        """Faults and state of every service, and how customers fare."""
        services = {name: service.report() for name, service in self.services.items()}
        faulty = [
            name for name, service in self.services.items()
            if service.delay_s or service.error_ratio or service.state != "running"
            or service.version == estate.BAD_VERSION
        ]  # fmt: skip
        return {"services": services, "faulty": faulty, "load": {"rate": self._rate, **self._figures}}

    # Faults.

    def set_faults(self, name: str, *, delay_s: float | None = None, error_ratio: float | None = None) -> None:
        """Sets a fault inside the service's processes; `None` leaves that one as it is.

        Raises:
            Conflict: the service is down.
        """
        service = self.service(name)
        with service.lock:
            if service.state == "down":
                raise Conflict(f"{name} is down; restart it first")
            service.delay_s = service.delay_s if delay_s is None else delay_s
            service.error_ratio = service.error_ratio if error_ratio is None else error_ratio
            for child in service.children:
                if child.alive:
                    self._tell(service, child)

    def crash(self, name: str) -> None:
        """Kills the service's processes; they stay down until a restart."""
        service = self.service(name)
        with service.lock:
            for child in service.children:
                child.kill()
            service.children.clear()
            service.delay_s = service.error_ratio = 0.0

    def clear(self) -> None:
        """The shop as it was at the start: good versions, no faults, everything up, one process a service."""
        for service in self.services.values():
            with service.lock:
                before, service.version = service.version, estate.GOOD_VERSION
                self._shrink(service, 1)
                service.delay_s = service.error_ratio = 0.0
                if before != service.version:
                    service.previous = before
                    self._roll(service)
                elif service.state == "running":
                    for child in service.children:
                        self._tell(service, child)
                else:
                    self._fill(service)
            if before != estate.GOOD_VERSION:
                self._announce(service.name, "rollback", estate.GOOD_VERSION, before)

    # Operations: what a runbook may ask for.

    def restart(self, name: str) -> dict[str, Any]:
        """New processes of the same version; whatever was wrong inside the old ones is gone."""
        service = self.service(name)
        with service.lock:
            self._roll(service)
        return {"service": name, "operation": "restart", **_short(service)}

    def deploy(self, name: str, version: str, *, kind: str = "deploy") -> dict[str, Any]:
        """Another version, announced to the platform as a change.

        Raises:
            Conflict: that version runs already.
        """
        service = self.service(name)
        with service.lock:
            if version == service.version:
                raise Conflict(f"{name} runs {version} already")
            before, before_that = service.version, service.previous
            service.version, service.previous = version, before
            try:
                self._roll(service)
            except BackendError:
                service.version, service.previous = before, before_that
                raise
        self._announce(name, kind, version, before)
        return {"service": name, "operation": kind, "from_version": before, **_short(service)}

    def rollback(self, name: str, version: str = "") -> dict[str, Any]:
        """Back to the version before, or to the one named.

        Raises:
            Conflict: no version is known to go back to.
        """
        service = self.service(name)
        target = version or service.previous
        if not target:
            raise Conflict(f"{name} has run only {service.version}; there is nothing to roll back to")
        return self.deploy(name, target, kind="rollback")

    def scale(self, name: str, replicas: int) -> dict[str, Any]:
        """So many processes on the service's port; the kernel spreads connections over them."""
        service = self.service(name)
        with service.lock:
            before = service.replicas
            self._shrink(service, replicas)
            service.replicas = replicas
            self._fill(service)
        self._announce(name, "scale", "", "", f"{name} scaled from {before} to {replicas}")
        return {"service": name, "operation": "scale", "from_replicas": before, **_short(service)}

    # Processes.

    def _spawn(self, service: Running, replica: int) -> Child:
        env = telemetry_env(self._export, service=service.name, version=service.version, replica=replica)
        child = Child(
            [*instrumented(f"{_PACKAGE}.shop", service.name), "--port", str(service.port), "--data", str(self._folder)],
            {**env, "SHOP_ADDRESSES": self._addresses}, self._logs / f"{service.name}.log", ready=True,
        )  # fmt: skip
        child.wait_ready()
        return child

    def _fill(self, service: Running) -> None:
        """Starts what is missing."""
        service.children = [child for child in service.children if child.alive]
        while len(service.children) < service.replicas:
            child = self._spawn(service, len(service.children))
            self._tell(service, child)
            service.children.append(child)

    def _roll(self, service: Running) -> None:
        fresh = [self._spawn(service, replica) for replica in range(service.replicas)]
        old, service.children = service.children, fresh
        service.delay_s = service.error_ratio = 0.0
        self._retire(old)

    def _shrink(self, service: Running, replicas: int) -> None:
        old, service.children = service.children[replicas:], service.children[:replicas]
        service.replicas = min(service.replicas, replicas)
        self._retire(old)

    def _retire(self, old: list[Child]) -> None:
        """Lets old processes finish their requests in the background."""
        self._retired = [child for child in self._retired if child.alive] + old
        for child in old:
            child.terminate()
            threading.Thread(target=child.stop, name="retire", daemon=True).start()

    def _tell(self, service: Running, child: Child) -> None:
        wanted = {"delay_s": service.delay_s, "error_ratio": service.error_ratio}
        try:
            self._http.put(f"http://127.0.0.1:{child.answer['control_port']}/faults", json=wanted).raise_for_status()
        except httpx2.HTTPError as error:
            raise Unavailable(f"{service.name} does not take faults: {error}") from error

    def _announce(self, name: str, kind: str, version: str, before: str, summary: str = "") -> None:
        """Tells the platform what changed; the shop goes on when the platform cannot be told."""
        change = {
            "service": name, "kind": kind, "version": version, "previous_version": before, "source": "demo-shop",
            "summary": summary or f"{name} {kind}: {before} → {version}",
        }  # fmt: skip
        try:
            self._http.post(
                f"{self._platform_url}/api/v1/changes", json=change,
                headers={"authorization": f"Bearer {self._export.api_key}"},
            ).raise_for_status()  # fmt: skip
        except httpx2.HTTPError as error:
            _LOG.warning("the platform was not told about a change: %s", error)

    def _read_figures(self) -> None:
        stream = self._load.process.stdout if self._load else None
        try:
            for line in stream or ():
                self._figures = json.loads(line)
        except ValueError:  # the stream was closed by `stop`
            return


def _short(service: Running) -> dict[str, Any]:
    report = service.report()
    return {name: report[name] for name in ("state", "version", "previous_version", "replicas", "pid")}


def _python(module: str) -> list[str]:
    return instrumented(module)[1:]
