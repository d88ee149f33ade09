"""This host's own metrics, in OpenTelemetry's names (semantic conventions, "System metrics").

So a first start shows something without any agent, and incidents can be told from a machine that is full.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from typing import Any

import psutil

from headspring.ingestion.normalize.metrics import SeriesDraft
from headspring.ingestion.pipeline import Intake
from headspring.proto.clock import Clock
from headspring.proto.errors import PlatformError
from headspring.proto.ids import DEFAULT_TENANT, entity_id
from headspring.proto.telemetry import MetricKind

logger = logging.getLogger(__name__)

_NO_DISKS = frozenset({"squashfs", "tmpfs", "devtmpfs", "overlay", "proc", "sysfs"})


class HostMetrics:
    """Reads psutil every `interval_s` and hands the samples to the intake."""

    def __init__(self, intake: Intake, *, clock: Clock, interval_s: float = 10.0, tenant: str = DEFAULT_TENANT) -> None:
        self._intake = intake
        self._clock = clock
        self._interval_s = interval_s
        self._tenant = tenant
        self._host = socket.gethostname()
        self._entity = entity_id("host", self._host)

    async def run(self) -> None:
        """Until cancelled. A round that the log refuses is dropped: the next one is as good."""
        while True:
            try:
                await self.collect()
            except PlatformError as error:
                logger.warning("host metrics were not stored: %s", error)
            await self._clock.sleep(self._interval_s)

    async def collect(self) -> int:
        """One round now; returns how many samples were stored."""
        now_ns = self._clock.now_ns()
        # psutil reads files of /proc and may block on a stale network disk.
        rows = await asyncio.to_thread(lambda: list(self._read()))
        result = await self._intake.metrics_values(self._tenant, ((draft, now_ns, value) for draft, value in rows))
        return result.accepted

    def _read(self) -> Iterator[tuple[SeriesDraft, float]]:
        busy = psutil.cpu_times_percent(interval=None)
        for state in ("user", "system", "iowait", "idle"):
            if hasattr(busy, state):
                yield self._gauge("system.cpu.utilization", "1", state=state), getattr(busy, state) / 100.0
        yield self._gauge("system.cpu.load_average.1m", "1"), psutil.getloadavg()[0]
        memory = psutil.virtual_memory()
        yield self._gauge("system.memory.usage", "By", state="used"), float(memory.used)
        yield self._gauge("system.memory.usage", "By", state="free"), float(memory.available)
        yield self._gauge("system.memory.utilization", "1", state="used"), memory.percent / 100.0
        swap = psutil.swap_memory()
        yield self._gauge("system.paging.utilization", "1", state="used"), swap.percent / 100.0
        yield from self._disks()
        yield from self._network()

    def _disks(self) -> Iterator[tuple[SeriesDraft, float]]:
        for disk in psutil.disk_partitions(all=False):
            if disk.fstype in _NO_DISKS or not disk.fstype:
                continue
            try:
                usage = psutil.disk_usage(disk.mountpoint)
            except OSError:
                continue  # unmounted since it was listed, or not ours to read
            yield self._gauge("system.filesystem.utilization", "1", mountpoint=disk.mountpoint), usage.percent / 100.0
        counters = psutil.disk_io_counters()
        if counters is not None:
            yield self._counter("system.disk.io", "By", direction="read"), float(counters.read_bytes)
            yield self._counter("system.disk.io", "By", direction="write"), float(counters.write_bytes)
            yield self._counter("system.disk.operations", "{operation}", direction="read"), float(counters.read_count)
            yield self._counter("system.disk.operations", "{operation}", direction="write"), float(counters.write_count)

    def _network(self) -> Iterator[tuple[SeriesDraft, float]]:
        counters: Any = psutil.net_io_counters(nowrap=True)
        if counters is None:  # a machine without interfaces; the type stubs do not know that
            return
        for direction, io, packets, errors, dropped in (
            ("receive", counters.bytes_recv, counters.packets_recv, counters.errin, counters.dropin),
            ("transmit", counters.bytes_sent, counters.packets_sent, counters.errout, counters.dropout),
        ):
            yield self._counter("system.network.io", "By", direction=direction), float(io)
            yield self._counter("system.network.packets", "{packet}", direction=direction), float(packets)
            yield self._counter("system.network.errors", "{error}", direction=direction), float(errors)
            yield self._counter("system.network.dropped", "{packet}", direction=direction), float(dropped)

    def _gauge(self, name: str, unit: str, **labels: str) -> SeriesDraft:
        return self._draft(name, unit, MetricKind.GAUGE, labels)

    def _counter(self, name: str, unit: str, **labels: str) -> SeriesDraft:
        return self._draft(name, unit, MetricKind.COUNTER, labels)

    def _draft(self, name: str, unit: str, kind: MetricKind, labels: dict[str, str]) -> SeriesDraft:
        return SeriesDraft(
            name=name, unit=unit, kind=kind, entity=self._entity, labels={"host_name": self._host, **labels}
        )
