"""The topology port: observed edges in, snapshots out.

Contract (proved by `headspring.knowledge.testing.TopologyContract` on every backend):

- `observe` is idempotent per (tenant, caller, callee, type); it moves `last_seen_ns` forward, never back.
- `snapshot` holds edges seen within the expiry before `at_ns`; edges expire on silence, configured
  ones (`source="config"`) do not.
- Durable on return of `observe`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from headspring.knowledge.topology.graph import Edge, Node, Topology


class TopologyGraph(Protocol):
    """See the module's contract. Calls are quick and blocking; run them in a thread where that matters."""

    def observe(self, tenant: str, edges: Sequence[Edge], nodes: Sequence[Node] = ()) -> None: ...

    def replace_configured(self, tenant: str, edges: Sequence[Edge], nodes: Sequence[Node] = ()) -> None:
        """What an operator declared, whole; replaces what was declared before."""
        ...

    def snapshot(self, tenant: str, *, at_ns: int) -> Topology:
        """The topology as known at `at_ns`; cheap when nothing changed since the last call."""
        ...
