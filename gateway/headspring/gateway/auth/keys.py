"""API keys, roles and browser sessions, in one SQLite file.

A key is 32 random bytes shown once. Only `HMAC-SHA-256(pepper, key)` is stored, and the pepper lives
in a file of its own that only the owner may read, so a stolen database alone opens nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import sqlalchemy as sa

from headspring.proto.clock import NS_PER_S, Clock
from headspring.proto.errors import ConfigError, Forbidden, NotFound, Unauthenticated
from headspring.proto.ids import DEFAULT_TENANT
from headspring.proto.secret_file import read_or_make

SESSION_S = 12 * 3600
"""A browser session ends after half a day."""
_PEPPER_BYTES = 32
_CACHED_S = 5.0
"""A key that another process revoked works for no longer than this."""
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


class KeyStore:
    """See the module. Calls are quick and may come from several threads."""

    def __init__(self, folder: Path, *, clock: Clock) -> None:
        self._clock = clock
        self._pepper = read_or_make(folder / "auth.pepper", _PEPPER_BYTES)
        self._engine = sa.create_engine(f"sqlite:///{folder / 'auth.db'}")
        _metadata.create_all(self._engine)
        os.chmod(folder / "auth.db", 0o600)
        self._cache: dict[bytes, tuple[float, Principal]] = {}
        self._lock = threading.Lock()

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
        with self._engine.connect() as connection:
            if connection.execute(sa.select(sa.func.count()).select_from(_keys)).scalar_one():
                return ""
        return self.create("admin", Role.ADMIN)

    def create(self, name: str, role: Role, tenant: str = DEFAULT_TENANT) -> str:
        """A new key; this is the only time it can be seen. An older key of that name stops working."""
        key = "hsk_" + secrets.token_urlsafe(32)
        self._upsert(name, role, tenant, key)
        return key

    def list(self) -> Sequence[Principal]:
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(_keys).order_by(_keys.c.created_ns)).all()
        return [_principal(row) for row in rows]

    def revoke(self, name: str) -> None:
        """
        Raises:
            NotFound: there is no key of that name.
        """
        with self._engine.begin() as connection:
            if not connection.execute(sa.delete(_keys).where(_keys.c.name == name)).rowcount:
                raise NotFound(f"there is no API key named {name!r}")
        with self._lock:
            self._cache.clear()

    def principal(self, key: str) -> Principal:
        """
        Raises:
            Unauthenticated: the key is not known.
        """
        mac = self._mac(key)
        with self._lock:
            cached = self._cache.get(mac)
        now_s = self._clock.monotonic_s()
        if cached and now_s - cached[0] < _CACHED_S:
            return cached[1]
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(_keys).where(_keys.c.mac == mac)).first()
        if row is None:
            raise Unauthenticated("this API key is not known here; wanted a key made by `headspring keys create`")
        found = _principal(row)
        with self._lock:
            self._cache[mac] = (now_s, found)
        return found

    def open_session(self, key: str) -> str:
        """A browser session for the owner of a key: the value of its cookie."""
        principal = self.principal(key)
        token = secrets.token_urlsafe(32)
        with self._engine.begin() as connection:
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
        """
        with self._engine.connect() as connection:
            row = connection.execute(
                sa.select(_keys, _sessions.c.csrf)
                .join(_sessions, _sessions.c.key_id == _keys.c.key_id)
                .where(_sessions.c.mac == self._mac(token), _sessions.c.expires_ns >= self._clock.now_ns())
            ).first()
        if row is None:
            raise Unauthenticated("this session is over; sign in again")
        return _principal(row, csrf=row.csrf)

    def close_session(self, token: str) -> None:
        with self._engine.begin() as connection:
            connection.execute(sa.delete(_sessions).where(_sessions.c.mac == self._mac(token)))

    def close(self) -> None:
        self._engine.dispose()

    def _upsert(self, name: str, role: Role, tenant: str, key: str) -> None:
        with self._engine.begin() as connection:
            mac = self._mac(key)
            connection.execute(sa.delete(_keys).where(sa.and_(_keys.c.name == name, _keys.c.mac != mac)))
            exists = connection.execute(sa.select(_keys.c.key_id).where(_keys.c.mac == mac)).first()
            if exists is None:
                connection.execute(
                    sa.insert(_keys).values(
                        key_id=secrets.token_hex(8), name=name, role=role.value, tenant=tenant, mac=mac,
                        created_ns=self._clock.now_ns(),
                    )
                )  # fmt: skip
        with self._lock:
            self._cache.clear()

    def _mac(self, key: str) -> bytes:
        return hmac.new(self._pepper, key.encode(), hashlib.sha256).digest()


def _principal(row: sa.Row[tuple[object, ...]], *, csrf: str = "") -> Principal:
    values = row._mapping
    return Principal(
        key_id=values["key_id"], name=values["name"], role=Role(values["role"]), tenant=values["tenant"], csrf=csrf
    )
