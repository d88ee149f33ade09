"""The topology port: observed edges in, snapshots out.

Contract (proved by `headspring.knowledge.testing.TopologyContract` on every backend):

- `observe` is idempotent per (tenant, caller, callee, type); it moves `last_seen_ns` forward, never back. Sightings
  may come in any order: an edge's lives (`rows.py`) are the same.
- `snapshot` holds the edges that live at `at_ns`: seen within the expiry before it, or first seen within two minutes
  after it. A moment of the past is answered from the lives of then, so an edge that was silent for longer than the
  expiry is not there in between; weight, source and confidence are the newest known. Declared edges
  (`source="config"`) do not expire and are there at every moment.
- Durable on return of `observe`, `replace_configured`, `load`, `forget` and `delete_tenant`.
- Own writes are in the next snapshot. A backend that several processes share shows theirs within 2 s.
- `snapshot` goes on while the server of a backend is away, from the last copy: then `degraded_since_ns` says of
  when that is, and what writes raises Unavailable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from headspring.knowledge.topology.graph import Edge, Node, Topology
from headspring.knowledge.topology.rows import Rows


class Snapshots(Protocol):
    """The part that only reads; see `TopologyGraph`."""

    def snapshot(self, tenant: str, *, at_ns: int) -> Topology: ...


class TopologyGraph(Protocol):
    """See the module's contract. Calls block; run those that write in a thread where that matters.

    Raises:
        Unavailable: by calls that write, and `tenants` and `export`: nothing was changed, or the same call may be
            made again.
    """

    @property
    def degraded_since_ns(self) -> int | None:
        """Unix ns of which the answers are while the backend is away; None while all is well."""
        ...

    def observe(self, tenant: str, edges: Sequence[Edge], nodes: Sequence[Node] = ()) -> None: ...

    def replace_configured(self, tenant: str, edges: Sequence[Edge], nodes: Sequence[Node] = ()) -> None:
        """What an operator declared, whole; replaces what was declared before."""
        ...

    def snapshot(self, tenant: str, *, at_ns: int) -> Topology:
        """The topology as known at `at_ns`; a look-up in memory when nothing changed since the last call."""
        ...

    def neighbours(
        self, tenant: str, entity: str, *, hops: int, at_ns: int, down: bool | None = None
    ) -> Mapping[str, int]:
        """Hop distance to everything within `hops` (at most `graph.MAX_HOPS`), itself included as 0.

        `down`: True caller → callee, False the other way, None either.
        """
        ...

    def paths(
        self, tenant: str, source: str, target: str, *, max_hops: int, at_ns: int, limit: int = 100
    ) -> Sequence[tuple[str, ...]]:
        """Ways caller → callee that pass no entity twice, shortest first, then by name; at most `limit` of them."""
        ...

    def forget(self, tenant: str, *, before_ns: int) -> int:
        """Drops lives that ended before `before_ns`; how many edges and nodes that touched. Declared ones stay.

        Backends do it by themselves for what ended 96 expiries ago (a day by default).
        """
        ...

    def tenants(self) -> Sequence[str]:
        """Tenants that have rows here, sorted."""
        ...

    def export(self, tenant: str) -> Rows:
        """Everything known of the tenant, for `load` elsewhere."""
        ...

    def load(self, tenant: str, rows: Rows) -> None:
        """Adds what `export` gave elsewhere to what is known here; doing it again changes nothing."""
        ...

    def delete_tenant(self, tenant: str) -> None:
        """Removes all rows of the tenant, declared ones too."""
        ...

    def close(self) -> None: ...
