"""API keys, roles and browser sessions, in one SQLite file or on PostgreSQL.

A key is 32 random bytes shown once. Only `HMAC-SHA-256(pepper, key)` is stored, and the pepper lives
in a file of its own that only the owner may read, so a stolen database alone opens nothing. Who asks is found out
before the tenant is known, so everything here works on all tenants.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import sqlalchemy as sa

from headspring.gateway.auth.remembered import Remembered
from headspring.proto.clock import NS_PER_S, Clock
from headspring.proto.errors import ConfigError, Forbidden, NotFound, Unauthenticated
from headspring.proto.ids import DEFAULT_TENANT
from headspring.proto.relational.database import ALL_TENANTS, Database, insert_new
from headspring.proto.relational.schema import Schema
from headspring.proto.secret_file import read_or_make

SESSION_S = 12 * 3600
"""A browser session ends after half a day."""
_PEPPER_BYTES = 32
_MIN_KEY_CHARS = 16


class Role(StrEnum):
    """What a key may do; each role may do what the ones before it may."""

    INGEST = "ingest"
    """Send telemetry, nothing else."""
    VIEWER = "viewer"
    OPERATOR = "operator"
    """Approve, reject and start runs; give feedback."""
    ADMIN = "admin"


_RANK = {Role.INGEST: 0, Role.VIEWER: 1, Role.OPERATOR: 2, Role.ADMIN: 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who asks."""

    key_id: str
    name: str
    role: Role
    tenant: str
    csrf: str = ""
    """Set for browser sessions: what a form must send back."""

    def require(self, role: Role) -> None:
        """
        Raises:
            Forbidden: this principal's role is below `role`.
        """
        if _RANK[self.role] < _RANK[role]:
            raise Forbidden(f"{self.name} has the role {self.role}; this needs {role}")


_metadata = sa.MetaData()
_keys = sa.Table(
    "api_keys", _metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("mac", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("created_ns", sa.BigInteger, nullable=False),
)  # fmt: skip
_sessions = sa.Table(
    "sessions", _metadata,
    sa.Column("mac", sa.LargeBinary, primary_key=True),
    sa.Column("key_id", sa.Text, sa.ForeignKey("api_keys.key_id", ondelete="CASCADE"), nullable=False),
    sa.Column("csrf", sa.Text, nullable=False),
    sa.Column("expires_ns", sa.BigInteger, nullable=False),
)  # fmt: skip
SCHEMA = Schema(name="keys", tables=_metadata, within={"sessions": ("key_id", "api_keys")})
_peppers = sa.MetaData()
_pepper = sa.Table(
    "pepper", _peppers, sa.Column("one", sa.Integer, primary_key=True), sa.Column("mac", sa.LargeBinary, nullable=False)
)
"""On PostgreSQL: what tells the pepper of these keys from another one."""
_PEPPER_SCHEMA = Schema(name="pepper", tables=_peppers)


class KeyStore:
    """See the module. Calls are quick and may come from several threads."""

    def __init__(self, place: Path | str, *, clock: Clock, secrets: Path | None = None) -> None:
        """
        Args:
            place: A folder, for the SQLite file `auth.db` in it, or the address of a PostgreSQL database.
            secrets: Folder of the pepper, the same for every process of an installation; by default `place`.

        Raises:
            ConfigError: the pepper cannot be read or made, or is not the one that the keys were made with.
            Unavailable: the database does not answer.
        """
        self._clock = clock
        folder = secrets or (place if isinstance(place, Path) else None)
        if folder is None:
            raise ConfigError("keys on PostgreSQL need a folder of secrets that all processes share; none was given")
        self._pepper = read_or_make(folder / "auth.pepper", _PEPPER_BYTES)
        if isinstance(place, Path):
            file = place / "auth.db"
            file.touch(mode=0o600)
            file.chmod(0o600)
        self._database = Database(place / "auth.db" if isinstance(place, Path) else place, SCHEMA)
        try:
            if self._database.is_server:
                self._check_pepper(place, folder)
        except BaseException:
            self._database.close()
            raise
        # Telemetry and pages must not wait for the database; a key revoked while it is away works until it is back.
        self._principals = Remembered(self._find, clock=clock, name=self._database.name)
        self._open_sessions = Remembered(self._find_session, clock=clock, name=self._database.name)

    def bootstrap(self, given: str = "") -> str:
        """Makes the first admin key when there is none yet; the key to show once, or "" when keys exist.

        A `given` key is made valid at every start, so that automation may rotate it.

        Raises:
            ConfigError: the given key is too short to be safe.
        """
        if given:
            if len(given) < _MIN_KEY_CHARS:
                raise ConfigError(f"bootstrap_key has {len(given)} characters; wanted at least {_MIN_KEY_CHARS}")
            self._upsert("bootstrap", Role.ADMIN, DEFAULT_TENANT, given)
            return ""
        with self._database.transaction(tenant=ALL_TENANTS) as connection:
            self._database.lock(connection, "first key")  # of several gateways one makes it
            if connection.execute(sa.select(sa.func.count()).select_from(_keys)).scalar_one():
                return ""
            key = _new_key()
            self._put(connection, "admin", Role.ADMIN, DEFAULT_TENANT, key)
        return key

    def create(self, name: str, role: Role, tenant: str = DEFAULT_TENANT) -> str:
        """A new key; this is the only time it can be seen. An older key of that name stops working."""
        key = _new_key()
        self._upsert(name, role, tenant, key)
        return key

    def list(self) -> Sequence[Principal]:
        with self._database.reading(tenant=ALL_TENANTS) as connection:
            rows = connection.execute(sa.select(_keys).order_by(_keys.c.created_ns)).all()
        return [_principal(row) for row in rows]

    def revoke(self, name: str) -> None:
        """
        Raises:
            NotFound: there is no key of that name.
        """
        with self._database.transaction(tenant=ALL_TENANTS) as connection:
            if not connection.execute(sa.delete(_keys).where(_keys.c.name == name)).rowcount:
                raise NotFound(f"there is no API key named {name!r}")
        self._forget()

    def principal(self, key: str) -> Principal:
        """
        Raises:
            Unauthenticated: the key is not known.
            Unavailable: the database does not answer, and the key was not seen lately.
        """
        found = self._principals.get(self._mac(key))
        if found is None:
            raise Unauthenticated("this API key is not known here; wanted a key made by `headspring keys create`")
        return found

    def open_session(self, key: str) -> str:
        """A browser session for the owner of a key: the value of its cookie."""
        principal = self.principal(key)
        token = secrets.token_urlsafe(32)
        with self._database.transaction(tenant=ALL_TENANTS) as connection:
            now_ns = self._clock.now_ns()
            connection.execute(sa.delete(_sessions).where(_sessions.c.expires_ns < now_ns))
            connection.execute(
                sa.insert(_sessions).values(
                    mac=self._mac(token), key_id=principal.key_id, csrf=secrets.token_urlsafe(24),
                    expires_ns=now_ns + SESSION_S * NS_PER_S,
                )
            )  # fmt: skip
        return token

    def session(self, token: str) -> Principal:
        """
        Raises:
            Unauthenticated: the session is unknown or over.
            Unavailable: as for `principal`.
        """
        found = self._open_sessions.get(self._mac(token))
        if found is None or found[1] < self._clock.now_ns():
            raise Unauthenticated("this session is over; sign in again")
        return found[0]

    def close_session(self, token: str) -> None:
        with self._database.transaction(tenant=ALL_TENANTS) as connection:
            connection.execute(sa.delete(_sessions).where(_sessions.c.mac == self._mac(token)))
        self._open_sessions.clear()

    def close(self) -> None:
        self._principals.close()
        self._open_sessions.close()
        self._database.close()

    def ping(self) -> None:
        """Raises Unavailable when the database does not answer."""
        self._database.ping()

    def _forget(self) -> None:
        self._principals.clear()
        self._open_sessions.clear()

    def _find(self, mac: bytes) -> Principal | None:
        with self._database.reading(tenant=ALL_TENANTS) as connection:
            row = connection.execute(sa.select(_keys).where(_keys.c.mac == mac)).first()
        return None if row is None else _principal(row)

    def _find_session(self, mac: bytes) -> tuple[Principal, int] | None:
        """With when it ends, unix nanoseconds."""
        with self._database.reading(tenant=ALL_TENANTS) as connection:
            row = connection.execute(
                sa.select(_keys, _sessions.c.csrf, _sessions.c.expires_ns)
                .join(_sessions, _sessions.c.key_id == _keys.c.key_id)
                .where(_sessions.c.mac == mac)
            ).first()
        return None if row is None else (_principal(row, csrf=row.csrf), row.expires_ns)

    def _upsert(self, name: str, role: Role, tenant: str, key: str) -> None:
        with self._database.transaction(tenant=ALL_TENANTS) as connection:
            self._database.lock(connection, "key", name)
            self._put(connection, name, role, tenant, key)
        self._forget()

    def _put(self, connection: sa.Connection, name: str, role: Role, tenant: str, key: str) -> None:
        mac = self._mac(key)
        connection.execute(sa.delete(_keys).where(sa.and_(_keys.c.name == name, _keys.c.mac != mac)))
        insert_new(
            connection, _keys,
            {
                "key_id": secrets.token_hex(8), "name": name, "role": role.value, "tenant": tenant, "mac": mac,
                "created_ns": self._clock.now_ns(),
            },
        )  # fmt: skip

    def _check_pepper(self, place: Path | str, folder: Path) -> None:
        mine = self._mac("headspring-pepper")
        peppers = Database(place, _PEPPER_SCHEMA)  # the same pool; only its table is wanted
        try:
            with peppers.transaction(tenant=ALL_TENANTS) as connection:
                insert_new(connection, _pepper, {"one": 1, "mac": mine})
                theirs = connection.execute(sa.select(_pepper.c.mac)).scalar_one()
        finally:
            peppers.close()
        if not hmac.compare_digest(bytes(theirs), mine):
            raise ConfigError(
                f"{folder / 'auth.pepper'} is not the pepper of the keys in {self._database.name}; give every process "
                "the same folder of secrets"
            )

    def _mac(self, key: str) -> bytes:
        return hmac.new(self._pepper, key.encode(), hashlib.sha256).digest()


def _new_key() -> str:
    return "hsk_" + secrets.token_urlsafe(32)


def _principal(row: sa.Row[tuple[object, ...]], *, csrf: str = "") -> Principal:
    values = row._mapping
    return Principal(
        key_id=values["key_id"], name=values["name"], role=Role(values["role"]), tenant=values["tenant"], csrf=csrf
    )
