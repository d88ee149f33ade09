"""PostgreSQL as Headspring uses it: connections with limits, checks at start, errors in our words.

One pool per address and process, whoever opens it. Nothing said here ever holds the password.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import sqlalchemy as sa

from headspring.proto.errors import BackendError, ConfigError, Conflict, PlatformError, Rejected, Unavailable
from headspring.proto.relational import schema

MIN_VERSION = 130_000
"""PostgreSQL 13, the oldest line that its makers still cared for in 2025."""
_POOL, _OVERFLOW = 5, 10
"""Connections kept and added under load, per process and address; a server takes 100 by default."""
_WAIT_S = 5.0
"""How long a call waits for a free connection of the pool."""
_RECYCLE_S = 1800
_SETTINGS = {
    "search_path": schema.NAME,
    "statement_timeout": "10s",
    "lock_timeout": "5s",
    # A process that stops in the middle of a transaction must not hold its locks against all others.
    "idle_in_transaction_session_timeout": "10s",
    "tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3",
}  # fmt: skip
CONNECT = {
    "connect_timeout": 5, "keepalives": 1, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}  # fmt: skip
"""Of every connection: a server or a network that is gone is noticed within some ten seconds."""
_REFUSED = {
    "password authentication failed": "the password or the role is wrong; mend them in the database address",
    "no password supplied": "the server wants a password; put one into the database address",
    "does not exist": "the database or the role is missing; make it, or mend the database address",
    "no pg_hba.conf entry": "the server does not let this role in from here; add it to its pg_hba.conf",
    "permission denied for database": "the role may not connect to it; GRANT CONNECT ON DATABASE … TO …",
    "Name or service not known": "there is no such host; mend the database address",
    "No address associated": "there is no such host; mend the database address",
}
"""Parts of what is said when a connection fails for good (libpq gives no code for these), and what to do."""
_FULL = ("remaining connection slots", "too many clients", "too many connections")
_RETRY_CLASSES = ("08", "40", "53", "57", "58")
"""Connection, rollback by concurrency, resources, operator intervention, system error: the same call may pass later."""
_RETRY = ("55P03", "25P03", "25006")
"""No lock in time; ended for idling inside a transaction; became a standby: the same."""
_NO_PRIVILEGE = "42501"

_lock = threading.Lock()
_open: dict[str, _Shared] = {}


@dataclass
class _Shared:
    engine: sa.Engine
    users: int = 0


def normalised(url: str) -> sa.URL:
    """The address with the driver that we use.

    Raises:
        ConfigError: it is no address of a database.
    """
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        raise ConfigError(
            "the database address cannot be read; wanted postgresql://ROLE:PASSWORD@HOST:PORT/DATABASE"
        ) from None
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed


def where(url: sa.URL) -> str:
    """The address for people: no password, no driver.

    >>> where(sa.make_url("postgresql+psycopg://ann:secret@db:5432/ops"))
    'PostgreSQL ann@db:5432/ops'
    """
    host = url.host or ",".join(_words(url.query.get("host", "")))
    return f"PostgreSQL {url.username or ''}@{host}{f':{url.port}' if url.port else ''}/{url.database or ''}"


def acquire(url: sa.URL) -> sa.Engine:
    """The pool for an address, opened and checked at its first use.

    Raises:
        ConfigError: it cannot be used as it is; says what was found, what was wanted and what to do.
        Unavailable: it does not answer; says what to check.
    """
    address = url.render_as_string(hide_password=False)
    with _lock:
        shared = _open.get(address)
        if shared is None:
            shared = _Shared(_engine(url))
            try:
                _check(shared.engine, url)
            except BaseException:
                shared.engine.dispose()
                raise
            _open[address] = shared
        shared.users += 1
        return shared.engine


def release(url: sa.URL) -> None:
    """Closes the pool when its last user is gone."""
    address = url.render_as_string(hide_password=False)
    with _lock:
        shared = _open.get(address)
        if shared is None:
            return
        shared.users -= 1
        if shared.users <= 0:
            del _open[address]
            shared.engine.dispose()


def translated(error: sa.exc.SQLAlchemyError, url: sa.URL) -> PlatformError:
    """What an error of the driver means to the caller of a store."""
    text = f"{where(url)}: {said(error, url)}"
    if isinstance(error, sa.exc.TimeoutError):
        return Unavailable(
            f"{where(url)}: no free connection within {_WAIT_S:.0f} s; the database or this role is busy"
        )
    if not isinstance(error, sa.exc.DBAPIError):
        return BackendError(text)
    code = _code(error)
    # Errors of the connection itself come without a code.
    lost = error.connection_invalidated or isinstance(error, sa.exc.InterfaceError)
    lost = lost or (not code and isinstance(error, sa.exc.OperationalError))
    if lost or code[:2] in _RETRY_CLASSES or code in _RETRY:
        return Unavailable(text)
    if isinstance(error, sa.exc.IntegrityError):
        return Conflict(text)
    if isinstance(error, sa.exc.DataError) or code == _NO_PRIVILEGE:
        return Rejected(text)
    return BackendError(text)


def said(error: sa.exc.SQLAlchemyError, url: sa.URL) -> str:
    """The server's or driver's words in one line, without statement, parameters or password."""
    words = str(error.orig) if isinstance(error, sa.exc.DBAPIError) and error.orig is not None else str(error)
    line = " ".join(words.split("\nLINE ")[0].split())
    password = url.password
    return line.replace(str(password), "***") if password else line


def refused(error: sa.exc.SQLAlchemyError, url: sa.URL) -> PlatformError:
    """What keeps a role from starting on this database, and what to do: `Unavailable` where waiting may help."""
    words = said(error, url)
    if isinstance(error, sa.exc.DBAPIError) and _code(error) == _NO_PRIVILEGE:
        return ConfigError(
            f"{where(url)}: {words}; the role must be able to make its tables once: "
            f'GRANT CREATE ON DATABASE "{url.database}" TO "{url.username}"'
        )
    for part, advice in _REFUSED.items():
        if part in words:
            return ConfigError(f"{where(url)}: {words}; {advice}")
    if any(part in words for part in _FULL):
        return Unavailable(f"{where(url)}: {words}; raise max_connections of the server or start fewer processes")
    return Unavailable(f"{where(url)} does not answer: {words}; check the database address and that the server runs")


def _engine(url: sa.URL) -> sa.Engine:
    given = " ".join(_words(url.query.get("options", "")))
    ours = " ".join(f"-c {name}={value}" for name, value in _SETTINGS.items())
    try:
        return sa.create_engine(
            url.difference_update_query(["options"]),
            pool_size=_POOL, max_overflow=_OVERFLOW, pool_timeout=_WAIT_S, pool_recycle=_RECYCLE_S, pool_pre_ping=True,
            hide_parameters=True,
            connect_args={
                **CONNECT, "application_name": "headspring", "options": f"{ours} {given}".strip(),
            },
        )  # fmt: skip
    except (ImportError, sa.exc.NoSuchModuleError) as error:
        raise ConfigError(
            f"{url.drivername} cannot be used: {error}; wanted postgresql:// and the extra headspring[distributed]"
        ) from None


def _check(engine: sa.Engine, url: sa.URL) -> None:
    try:
        with engine.connect() as connection:
            version = int(connection.exec_driver_sql("SHOW server_version_num").scalar_one())
            role, bypasses, standby = connection.exec_driver_sql(
                "SELECT current_user, (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user),"
                " pg_is_in_recovery()"
            ).one()
    except sa.exc.SQLAlchemyError as error:
        raise refused(error, url) from None
    if version < MIN_VERSION:
        raise ConfigError(
            f"{where(url)} is version {version // 10_000}; wanted {MIN_VERSION // 10_000} or newer: upgrade the server"
        )
    if bypasses:
        raise ConfigError(
            f"{where(url)}: the role {role} is a superuser or has BYPASSRLS, so nothing would keep tenants apart; "
            "wanted an ordinary role: CREATE ROLE headspring LOGIN PASSWORD '…'"
        )
    if standby:
        raise ConfigError(f"{where(url)} is a standby and takes no writes; give the address of the primary")


def _code(error: sa.exc.DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


def _words(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else (value,) if value else ()
