"""`headspring migrate`: opens both installations, moves every part, proves it, and can be killed at any moment."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from headspring.action.audit.chain import AuditLog
from headspring.action.store import SCHEMA as RUNS
from headspring.action.store import RunStore
from headspring.gateway.auth.keys import SCHEMA as KEYS
from headspring.gateway.auth.keys import KeyStore
from headspring.gateway.detection import read_file
from headspring.gateway.migrate.part import Content, Journal, Mark, Part
from headspring.gateway.migrate.records import COMPACTED, RecordsPart, SettingsPart
from headspring.gateway.migrate.relational import AuditPart, TablesPart
from headspring.gateway.migrate.stores import ArtifactsPart, DocumentsPart, SeriesPart, TopologyPart
from headspring.gateway.runtime.config import Settings
from headspring.gateway.runtime.parts import Parts
from headspring.knowledge.documents.sqlite import SqliteDocumentStore
from headspring.knowledge.series.duckdb_store import DuckDbSeriesStore
from headspring.knowledge.topology.embedded import EmbeddedTopology
from headspring.models.artifacts.files import FileArtifactStore
from headspring.models.labels.store import SCHEMA as LABELS
from headspring.models.registry.sqlite import SCHEMA as MODELS
from headspring.proto.action import RunState
from headspring.proto.clock import NS_PER_S, SystemClock
from headspring.proto.errors import ConfigError, PreconditionFailed
from headspring.proto.topics import SPANS
from headspring.streaming.log.segments import SegmentLog

_SECRETS = ("auth.pepper", "audit.key", "series.key")
_UNDER_WAY = (RunState.APPROVED, RunState.EXECUTING, RunState.VALIDATING, RunState.ROLLING_BACK)
_OPEN = ("open", "acknowledged", "mitigating", "settling")
_SPANS_S = 1800
JOURNAL = "migration.json"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """One part, proven from both sides."""

    name: str
    source: Content
    target: Content

    @property
    def equal(self) -> bool:
        return self.source == self.target


async def migrate(data: Path, settings: Settings, *, leave_open: bool, say: Say) -> Sequence[Moved]:
    """Moves what the embedded installation in `data` knows to the servers of `settings`.

    Args:
        leave_open: Incidents that are open stay open there; alerts that follow open incidents of their own.
        say: Takes a line whenever a page has been moved or proven.

    Raises:
        ConfigError: no installation is in `data`, or it runs, or a server cannot be used.
        PreconditionFailed: a run is under way, or an incident is open and may not be left so.
        Unavailable: a server does not answer; what was moved is moved, call it again.
    """
    if not (data / "log").is_dir():
        raise ConfigError(f"{data} holds no installation to move; wanted the folder given to `headspring up --data`")
    clock = SystemClock()
    log = await SegmentLog.open(data / "log", clock=clock)
    target = Parts("migrate", settings, clock)
    closers = contextlib.ExitStack()
    try:
        documents = SqliteDocumentStore(data / "documents.db")
        closers.callback(documents.close)
        topology = EmbeddedTopology(data / "topology.db")
        closers.callback(topology.close)
        series = DuckDbSeriesStore(data / "series.duckdb")
        closers.callback(series.close)
        tenants = _tenants(data, series, topology)
        _check_calm(data, documents, tenants, leave_open)
        _share_secrets(data, settings.secrets)
        moved = await _move(
            _Source(data=data, log=log, documents=documents, series=series, topology=topology, tenants=tenants),
            target, settings, say,
        )  # fmt: skip
    finally:
        closers.close()
        await target.process.close()
        await log.close()
    return moved


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """The embedded installation, opened."""

    data: Path
    log: SegmentLog
    documents: SqliteDocumentStore
    series: DuckDbSeriesStore
    topology: EmbeddedTopology
    tenants: Sequence[str]


async def _move(source: _Source, target: Parts, settings: Settings, say: Say) -> list[Moved]:
    data = source.data
    journal = Journal(data / JOURNAL, target=f"{settings.kafka} {settings.kafka_prefix}".strip())
    parts = await _parts(source, target, settings)
    moved = []
    for number, part in enumerate(parts, 1):
        where = f"[{number}/{len(parts)}] {part.name}"
        mark = journal.mark(part.name)
        items = mark.items

        def note(after: str, copied: int, *, part: Part = part, where: str = where) -> None:
            nonlocal items
            items += copied
            journal.note(part.name, Mark(after=after, items=items))
            say(f"{where}: {items} moved")

        if not mark.done:
            await part.copy(mark.after, note)
            journal.note(part.name, Mark(after=journal.mark(part.name).after, items=items, done=True))
        found = Moved(name=part.name, source=await part.source(), target=await part.target())
        say(f"{where}: {found.target.count} of {found.source.count} {'equal' if found.equal else 'NOT EQUAL'}")
        if not found.equal:
            journal.note(part.name, Mark())  # so that the next call moves it again, from the start
        moved.append(found)
    return moved


async def _parts(source: _Source, target: Parts, settings: Settings) -> Sequence[Part]:
    """In an order in which each part finds what it refers to."""
    data, now_ns = source.data, target.clock.now_ns()
    url = target.database_url()
    log = await target.log()
    series, documents = await target.series(), await target.documents(needed=True)
    topology, artifacts = await target.topology(needed=True), await target.artifacts()
    audits = (
        AuditLog(data / "audit.db", data / "audit.key", data / "audit.head"),
        await asyncio.to_thread(AuditLog, url, settings.secrets / "audit.key", settings.data / "audit.head"),
    )
    for audit in audits:
        target.closing(audit.close)
    since_ns = now_ns - round(settings.retention_h * 3600 * NS_PER_S)
    spans_ns = now_ns - _SPANS_S * NS_PER_S
    return (
        TablesPart(KEYS, data / "auth.db", url, leave_out=("sessions",)),
        TablesPart(RUNS, data / "actions.db", url),
        AuditPart(*audits),
        TablesPart(LABELS, data / "labels.db", url),
        TablesPart(MODELS, data / "models.db", url),
        ArtifactsPart(FileArtifactStore(data / "artifacts"), artifacts),
        SettingsPart(read_file(data / "detection.json"), log, now_ns=now_ns),
        *(RecordsPart(topic, source.log, log, partitions=settings.partitions) for topic in COMPACTED),
        RecordsPart(SPANS.name, source.log, log, partitions=settings.partitions, since_ns=spans_ns),
        TopologyPart(source.topology, topology),
        DocumentsPart(source.documents, documents, source.tenants),
        SeriesPart(source.series, series, lambda: target.open_series(), since_ns=since_ns),
    )


def _tenants(data: Path, series: DuckDbSeriesStore, topology: EmbeddedTopology) -> Sequence[str]:
    keys = KeyStore(data, clock=SystemClock())
    try:
        known = {key.tenant for key in keys.list()}
    finally:
        keys.close()
    return sorted(known | set(series.tenants()) | set(topology.tenants()))


def _check_calm(data: Path, documents: SqliteDocumentStore, tenants: Sequence[str], leave_open: bool) -> None:
    runs = RunStore(data / "actions.db")
    try:
        busy = runs.in_states(_UNDER_WAY)
    finally:
        runs.close()
    if busy:
        raise PreconditionFailed(
            f"run {busy[0].run_id} is {busy[0].state}; start the installation again, let it end, and stop it then"
        )
    for tenant in tenants:
        still = documents.incidents(tenant, states=_OPEN, limit=1).items
        if still and not leave_open:
            raise PreconditionFailed(
                f"incident {still[0].incident_id} is {still[0].state}; let it end first, or move with --leave-open: it "
                "stays open there, and alerts that follow open another"
            )


def _share_secrets(data: Path, secrets: Path) -> None:
    """Keys work, and the audit log stays signed, because all processes get what the one had."""
    secrets.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in _SECRETS:
        mine, theirs = data / name, secrets / name
        if not mine.exists():
            continue
        if theirs.exists():
            if theirs.read_bytes() != mine.read_bytes():
                raise ConfigError(
                    f"{theirs} is not the {name} of {data}: processes have started with secrets of their own; stop "
                    "them, empty their database and that folder, and move before the first of them starts"
                )
            continue
        fresh = theirs.with_name(f".{name}.new")
        fresh.touch(mode=0o600)
        fresh.write_bytes(mine.read_bytes())
        fresh.replace(theirs)
