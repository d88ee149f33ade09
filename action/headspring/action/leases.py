"""Who acts on a run, among several orchestrators of one PostgreSQL: a lease with a fencing token.

A lease names its owner and a token that grows with every owner, and ends by the database's time unless it is renewed.
Whatever an owner writes about its run is written under the token (`fence`), in the same transaction, so an owner that
was cut off and comes back is refused before its next effect. See `action/decisions/001-leases.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from headspring.proto.clock import Clock, SystemClock
from headspring.proto.errors import Conflict
from headspring.proto.relational.database import ALL_TENANTS, Database, Place
from headspring.proto.relational.schema import Schema

LEASE_S = 10.0
"""How long a lease holds without being renewed: a run whose owner died waits so long for the next one."""
TOLD_NS = 3_000_000_000
"""Whoever decides also tells; an approved run waits so long for that before its orchestrator tells it."""

_tables = sa.MetaData()
_leases = sa.Table(
    "leases", _tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("token", sa.BigInteger, nullable=False),
    sa.Column("expires", sa.DateTime(timezone=True), nullable=False),
)  # fmt: skip
_SCHEMA = Schema(name="leases", tables=_tables)

_ENDS = "clock_timestamp() + :seconds * interval '1 second'"
_TAKE = """
    ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, token = l.token + 1, expires = excluded.expires
    WHERE l.expires <= clock_timestamp()
    RETURNING name, token
"""
# A lease that somebody is about to write under is passed over, and no run is locked: whoever writes under a lease locks
# the lease first and the run then.
_TAKE_RUNS = sa.text(f"""
    WITH wanted AS (
        SELECT run_id, updated_ns FROM runs
        WHERE state = ANY(:states)
        AND (state <> 'approved' OR updated_ns < :told_before_ns
             OR EXISTS (SELECT 1 FROM events e WHERE e.run_id = runs.run_id AND e.time_ns >= runs.updated_ns))
    ), expired AS (
        SELECT l.name FROM leases l JOIN wanted ON run_id = l.name
        WHERE l.expires <= clock_timestamp() FOR UPDATE OF l SKIP LOCKED
    ), due AS (
        SELECT run_id FROM wanted
        WHERE NOT EXISTS (SELECT 1 FROM leases l WHERE l.name = run_id) OR run_id IN (SELECT name FROM expired)
        ORDER BY updated_ns LIMIT :most
    )
    INSERT INTO leases AS l (name, owner, token, expires) SELECT run_id, :owner, 1, {_ENDS} FROM due {_TAKE}
""")  # noqa: S608 - nothing but our own constants is put in
_TAKE_NAME = sa.text(
    f"INSERT INTO leases AS l (name, owner, token, expires) VALUES (:name, :owner, 1, {_ENDS}) {_TAKE}"  # noqa: S608
)
_RENEW = sa.text(
    f"UPDATE leases SET expires = {_ENDS} WHERE owner = :owner AND name = ANY(:names) RETURNING name, token"  # noqa: S608
)


class Fenced(Conflict):
    """Another orchestrator owns the run, or may by now: no effect and no write of this one counts any more."""


class Lease:
    """One process's right to act on a run. `check` is free and may be asked before every effect."""

    def __init__(self, name: str, owner: str, token: int, *, clock: Clock, asked_s: float, seconds: float) -> None:
        self.name = name
        self.owner = owner
        self.token = token
        self._clock = clock
        self._until_s = asked_s + seconds
        self._lost = False

    def check(self) -> None:
        """
        Raises:
            Fenced: it is lost, or was not renewed in time, so that another may own it.
        """
        if self._lost:
            raise Fenced(f"run {self.name} was taken over by another orchestrator")
        if self._clock.monotonic_s() >= self._until_s:
            raise Fenced(f"the lease of run {self.name} was not renewed in time")

    def renewed(self, until_s: float) -> None:
        self._until_s = until_s

    def lose(self) -> None:
        """For good: a new lease on the same run is another object."""
        self._lost = True


class Leases:
    """The leases of one process. Every call may raise `Unavailable`."""

    def __init__(self, place: Place, *, owner: str, seconds: float = LEASE_S) -> None:
        """`owner` is another one in every life of every process."""
        self._database = Database(place, _SCHEMA)
        self.owner = owner
        self.seconds = seconds
        self._clock = SystemClock()  # leases end by the database's time, so no other clock will do

    def take_runs(self, states: Sequence[str], *, most: int, now_ns: int) -> Sequence[Lease]:
        """Takes runs in these states that nobody owns, oldest first. An approved run whose approval is not yet in the
        trail is left to whoever approved it for `TOLD_NS`."""
        asked_s = self._clock.monotonic_s()
        values = {
            "states": list(states), "most": most, "owner": self.owner, "seconds": self.seconds,
            "told_before_ns": now_ns - TOLD_NS,
        }  # fmt: skip
        with self._database.transaction(tenant=ALL_TENANTS) as connection:
            rows = connection.execute(_TAKE_RUNS, values).all()
        return [self._lease(row.name, row.token, asked_s) for row in rows]

    def take(self, name: str) -> Lease | None:
        """A lease on something else than a run; None while another process has it."""
        asked_s = self._clock.monotonic_s()
        with self._database.transaction(tenant=ALL_TENANTS) as connection:
            row = connection.execute(_TAKE_NAME, {"name": name, "owner": self.owner, "seconds": self.seconds}).first()
        return None if row is None else self._lease(row.name, row.token, asked_s)

    def renew(self, leases: Iterable[Lease]) -> Sequence[Lease]:
        """Renews what is still ours, expired or not; the ones that another process took, which are lost."""
        held = {lease.name: lease for lease in leases}
        if not held:
            return []
        until_s = self._clock.monotonic_s() + self.seconds
        with self._database.transaction(tenant=ALL_TENANTS) as connection:
            rows = connection.execute(_RENEW, {"owner": self.owner, "names": list(held), "seconds": self.seconds}).all()
        still = {row.name: row.token for row in rows}
        lost = []
        for name, lease in held.items():
            if still.get(name) == lease.token:
                lease.renewed(until_s)
            else:
                lease.lose()
                lost.append(lease)
        return lost

    def release(self, lease: Lease) -> None:
        """Lets another process have it at once; nothing where it is lost already."""
        lease.lose()
        mine = (_leases.c.name == lease.name, _leases.c.owner == lease.owner, _leases.c.token == lease.token)
        with self._database.transaction(tenant=ALL_TENANTS) as connection:
            connection.execute(sa.update(_leases).where(*mine).values(expires=sa.func.clock_timestamp()))

    def close(self) -> None:
        self._database.close()

    def _lease(self, name: str, token: int, asked_s: float) -> Lease:
        return Lease(name, self.owner, token, clock=self._clock, asked_s=asked_s, seconds=self.seconds)


def fence(connection: sa.Connection, lease: Lease) -> None:
    """Until the transaction ends nobody else takes the run.

    Raises:
        Fenced: somebody has.
    """
    mine = (_leases.c.name == lease.name, _leases.c.owner == lease.owner, _leases.c.token == lease.token)
    if connection.execute(sa.select(_leases.c.token).where(*mine).with_for_update(read=True)).first() is None:
        lease.lose()
        lease.check()
