"""The topology in Neo4j, shared by every process of an installation.

Each process keeps a copy of the rows of every tenant that it is asked about, and answers snapshots from it. Once a
second it asks Neo4j which tenants have a newer version and fetches what changed. So correlation and diagnosis never
wait for Neo4j, and go on with the last copy while it is away. Own writes are in the copy when they return.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from neo4j import AsyncManagedTransaction

from headspring.knowledge.topology import neo4j_cypher as cypher
from headspring.knowledge.topology import neo4j_work as work
from headspring.knowledge.topology.graph import Edge, Node, Topology, checked_hops
from headspring.knowledge.topology.neo4j_client import Answer, Neo4jClient, Work
from headspring.knowledge.topology.rows import FORGET_FACTOR, Changes, Rows, TenantRows, newest_ns
from headspring.proto.clock import NS_PER_S, Clock, SystemClock
from headspring.proto.errors import BackendError, PlatformError, Unavailable

_LOG = logging.getLogger(__name__)
_REFRESH_S = 1.0
_LONGEST_BACK_OFF_S = 5.0
"""While Neo4j is away it is tried this often."""
_SILENT_S = 10.0
"""Without an answer for this long Neo4j counts as away, though no call has failed yet."""
_KEEP_S = 1800.0
"""A copy that nobody asked for this long is dropped."""
_FIRST_READ_SHARE = 3
"""The one time that a snapshot waits is for a tenant's first rows, for no longer than this part of what others may."""
_ROWS_PER_S = 1_000
"""Slowest that a server writes; on an idle one it is ten times as fast."""
_LOAD = 10_000
"""Rows that `load` writes in one transaction."""
_EXPORT_FACTOR = 4
_DELETE_FACTOR = 10
"""How much longer than other calls these may take."""


class _Unchanged(Exception):
    """Ends a transaction that has nothing to write."""


class Neo4jTopology:
    """`TopologyGraph` (see the port for the contract) in Neo4j 5 or newer."""

    def __init__(
        self, url: str, *, user: str, password: str, database: str = "neo4j", ca_file: Path | None = None,
        expiry_s: float = 900, must_answer: bool = True, answer_s: float = 30, clock: Clock | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            ca_file: PEM file of the authority that signed the server's certificate; None: the system's.
            expiry_s: An edge not seen for this long leaves the snapshot; the same in every process.
            must_answer: False lets a process start while Neo4j is away, with empty graphs until it is back. A
                server that answers and cannot be used is an error all the same.
            answer_s: Longest wait for an answer: milliseconds as a rule, ten seconds for the first ones of a server
                that has just started on a busy machine. A write gets a second more for every 1 000 edges.

        Raises:
            ConfigError: wrong address, user, password, database or version; says which, and what to do.
        """
        if expiry_s <= 0:
            raise ValueError(f"expiry_s must be more than 0 s, got {expiry_s}")
        self._clock = clock or SystemClock()
        self._expiry_ns = round(expiry_s * NS_PER_S)
        self._answer_s = answer_s
        self._copies: dict[str, work.Copy] = {}
        self._lock = threading.Lock()
        """Guards `_copies` as a dictionary."""
        self._client = Neo4jClient(url, user=user, password=password, database=database, ca_file=ca_file)
        self._answered_ns = self._clock.now_ns()
        self._answered_s = self._clock.monotonic_s()
        self._trouble = ""
        """Why the last attempt failed; "" when it did not."""
        self._schema_made = False
        try:
            self._schema_made = self._client.verify(cypher.SCHEMA, must_answer=must_answer, limit_s=answer_s)
        except BaseException:
            self._client.close()
            raise
        if not self._schema_made:
            self._trouble = f"Neo4j at {self._client.where} did not answer at the start"
        self._client.start(self._follow())

    @property
    def degraded_since_ns(self) -> int | None:
        silent_s = self._clock.monotonic_s() - self._answered_s
        return self._answered_ns if self._trouble or silent_s > _SILENT_S else None

    def ping(self) -> None:
        """A look at what the refreshing found; no call to the server.

        Raises:
            Unavailable: Neo4j is away; says why.
        """
        if self.degraded_since_ns is not None:
            raise Unavailable(self._trouble or f"Neo4j at {self._client.where} does not answer")

    def observe(self, tenant: str, edges: Sequence[Edge], nodes: Sequence[Node] = ()) -> None:
        if not edges and not nodes:
            return
        newest = newest_ns(edges, nodes)
        self._change(tenant, lambda rows: rows.observed(edges, nodes), size=len(edges) + len(nodes))
        copy = self._copy(tenant)
        copy.forgotten_ns = copy.forgotten_ns or newest
        if newest - copy.forgotten_ns >= self._expiry_ns:
            copy.forgotten_ns = newest
            self.forget(tenant, before_ns=newest - FORGET_FACTOR * self._expiry_ns)

    def replace_configured(self, tenant: str, edges: Sequence[Edge], nodes: Sequence[Node] = ()) -> None:
        self._change(tenant, lambda rows: rows.declared(edges, nodes), size=len(edges) + len(nodes))

    def snapshot(self, tenant: str, *, at_ns: int) -> Topology:
        copy = self._copy(tenant)
        if copy.version < 0 and not self._trouble:
            try:
                self._client.run(self._read(tenant, copy), self._answer_s / _FIRST_READ_SHARE)
            except BackendError as error:
                self._failed(error)
        return copy.rows.snapshot(at_ns)

    def neighbours(
        self, tenant: str, entity: str, *, hops: int, at_ns: int, down: bool | None = None
    ) -> Mapping[str, int]:
        if checked_hops(hops) == 0:
            return {entity: 0}
        when: Mapping[str, Any] = {"at_ns": at_ns, "expiry_ns": self._expiry_ns}
        try:
            self.ping()
            return self._answer(lambda tx: work.near(tx, tenant, entity, hops, down, when))
        except Unavailable as error:
            self._failed(error)
            return self.snapshot(tenant, at_ns=at_ns).hops(entity, hops, down=down)

    def paths(
        self, tenant: str, source: str, target: str, *, max_hops: int, at_ns: int, limit: int = 100
    ) -> Sequence[tuple[str, ...]]:
        if checked_hops(max_hops) == 0 or source == target:
            return ()
        when: Mapping[str, Any] = {"at_ns": at_ns, "expiry_ns": self._expiry_ns}
        try:
            self.ping()
            between = self._answer(lambda tx: work.between(tx, tenant, source, target, max_hops, when))
        except Unavailable as error:
            self._failed(error)
            between = self.snapshot(tenant, at_ns=at_ns)
        return between.paths(source, target, max_hops, limit=limit)

    def forget(self, tenant: str, *, before_ns: int) -> int:
        return len(self._change(tenant, lambda rows: rows.forgotten(before_ns), size=_LOAD))

    def tenants(self) -> Sequence[str]:
        async def task(tx: AsyncManagedTransaction) -> list[str]:
            return [record["tenant"] async for record in await tx.run(cypher.TENANTS)]

        return self._answer(task)

    def export(self, tenant: str) -> Rows:
        async def task(tx: AsyncManagedTransaction) -> Rows:
            return await work.changed(tx, tenant, -1)

        return self._answer(task, _EXPORT_FACTOR)

    def load(self, tenant: str, rows: Rows) -> None:
        for part in _parts(rows):
            self._change(tenant, partial(TenantRows.merged, rows=part), size=_LOAD)

    def delete_tenant(self, tenant: str) -> None:
        self._client.run(self._deleted(tenant, self._copy(tenant)), _DELETE_FACTOR * self._answer_s)

    def close(self) -> None:
        self._client.close()

    def _answer(self, task: Work[Answer], factor: float = 1) -> Answer:
        limit_s = factor * self._answer_s
        return self._client.run(self._client.read(task, limit_s), limit_s)

    def _copy(self, tenant: str) -> work.Copy:
        with self._lock:
            found = self._copies.get(tenant)
            if found is None:
                found = self._copies[tenant] = work.Copy(TenantRows(self._expiry_ns))
            found.asked_s = self._clock.monotonic_s()
            return found

    def _change(self, tenant: str, ask: Callable[[TenantRows], Changes], *, size: int) -> Changes:
        limit_s = self._answer_s + size / _ROWS_PER_S
        try:
            return self._client.run(self._written(tenant, self._copy(tenant), ask, limit_s), limit_s)
        except Unavailable as error:
            self._failed(error)
            raise

    async def _written(
        self, tenant: str, copy: work.Copy, ask: Callable[[TenantRows], Changes], limit_s: float
    ) -> Changes:
        """Neo4j first, the copy when it is committed there."""

        async def task(tx: AsyncManagedTransaction) -> tuple[Changes, int, str]:
            state = await (await tx.run(cypher.LOCK, tenant=tenant, epoch=_new_epoch())).single(strict=True)
            version, epoch = int(state["version"]), str(state["epoch"])
            # Under the lock nobody else writes: from here on the copy is what the server has.
            await work.catch_up(tx, tenant, copy, version - 1, epoch)
            changes = ask(copy.rows)
            if not len(changes):
                raise _Unchanged
            if await work.put(tx, tenant, version, changes, known=copy.rows):
                epoch = _new_epoch()
                await (await tx.run(cypher.NEW_EPOCH, tenant=tenant, epoch=epoch)).consume()
            return changes, version, epoch

        async with copy.busy:
            try:
                changes, copy_version, copy_epoch = await self._client.write(task, limit_s)
            except _Unchanged:
                self._answered()
                return Changes()
            copy.rows.apply(changes)
            copy.version, copy.epoch = copy_version, copy_epoch
        self._answered()
        return changes

    async def _read(self, tenant: str, copy: work.Copy) -> None:
        """Brings a copy up to date."""

        async def task(tx: AsyncManagedTransaction) -> None:
            # The state first: what is committed in between comes again with the next version.
            states = await work.states(tx, [tenant])
            await work.catch_up(tx, tenant, copy, *states.get(tenant, work.ABSENT))

        async with copy.busy:
            await self._client.read(task, self._answer_s)
        self._answered()

    async def _deleted(self, tenant: str, copy: work.Copy) -> None:
        async def some(tx: AsyncManagedTransaction) -> int:
            found = await (await tx.run(cypher.DELETE_SOME, tenant=tenant, limit=cypher.BATCH)).single(strict=True)
            return int(found["deleted"])

        async def rest(tx: AsyncManagedTransaction) -> None:
            await (await tx.run(cypher.DELETE_TENANT, tenant=tenant)).consume()

        async with copy.busy:
            while await self._client.write(some, self._answer_s):
                pass
            await self._client.write(rest, self._answer_s)
            copy.rows.replace(Rows())
            copy.version, copy.epoch = work.ABSENT

    async def _follow(self) -> None:
        """Keeps the copies up to date until it is cancelled."""
        wait_s = _REFRESH_S
        while True:
            await asyncio.sleep(wait_s)
            try:
                await asyncio.wait_for(self._refresh(), self._answer_s)
                wait_s = _REFRESH_S
            except TimeoutError:
                self._failed(Unavailable(f"Neo4j at {self._client.where} did not answer within {self._answer_s:.0f} s"))
            except PlatformError as error:
                self._failed(error)
                wait_s = min(_LONGEST_BACK_OFF_S, wait_s * 2)

    async def _refresh(self) -> None:
        if not self._schema_made:
            await self._client.prepare(cypher.SCHEMA)
            self._schema_made = True
        now_s = self._clock.monotonic_s()
        with self._lock:
            for tenant in [one for one, copy in self._copies.items() if now_s - copy.asked_s > _KEEP_S]:
                if not self._copies[tenant].busy.locked():
                    del self._copies[tenant]
            copies = dict(self._copies)
        states = await self._client.read(lambda tx: work.states(tx, list(copies)), self._answer_s)
        self._answered()
        for tenant, copy in copies.items():
            # Whoever holds the copy brings it up to date.
            if (copy.version, copy.epoch) != states.get(tenant, work.ABSENT) and not copy.busy.locked():
                await self._read(tenant, copy)

    def _answered(self) -> None:
        if self._trouble:
            self._trouble = ""
            _LOG.info("neo4j is back, the topology is up to date again: server=%s", self._client.where)
        self._answered_ns, self._answered_s = self._clock.now_ns(), self._clock.monotonic_s()

    def _failed(self, error: PlatformError) -> None:
        if not self._trouble:
            _LOG.warning("topology answers from its last copy: reason=%s", error)
        self._trouble = str(error)


def _parts(rows: Rows) -> Iterator[Rows]:
    edges, nodes = list(rows.edges.items()), list(rows.nodes.items())
    for start in range(0, len(edges), _LOAD):
        yield Rows(dict(edges[start : start + _LOAD]), {})
    for start in range(0, len(nodes), _LOAD):
        yield Rows({}, dict(nodes[start : start + _LOAD]))


def _new_epoch() -> str:
    return uuid.uuid4().hex
