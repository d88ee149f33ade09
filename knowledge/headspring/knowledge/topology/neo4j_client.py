"""The way to Neo4j: one driver on a thread of its own, every wait bounded, every error ours.

The driver's asynchronous form is used because its calls can be given up: a server that stops answering on an open
connection would hold a synchronous call for two minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from neo4j import (
    AsyncDriver,
    AsyncGraphDatabase,
    AsyncManagedTransaction,
    AsyncSession,
    NotificationMinimumSeverity,
    TrustCustomCAs,
    unit_of_work,
)
from neo4j.exceptions import (
    AuthError,
    ConfigurationError,
    ConnectionPoolError,
    DriverError,
    Forbidden,
    Neo4jError,
    ServiceUnavailable,
    SessionExpired,
    TransientError,
    UnsupportedServerProduct,
)

from headspring.proto.errors import BackendError, ConfigError, PlatformError, Rejected, Unavailable, Unreachable

_LOG = logging.getLogger(__name__)
# The driver calls every lost connection an error, and every retry a warning; what matters of it we say ourselves.
logging.getLogger("neo4j").setLevel(logging.CRITICAL)
OLDEST = (5, 0)
"""Constraints and indexes are written as from this version on."""
_SCHEMES = ("bolt", "bolt+s", "bolt+ssc", "neo4j", "neo4j+s", "neo4j+ssc")
_CONNECT_S = 3.0
_SEND_S = 20.0
_ACQUIRE_S = 5.0
"""For a free connection, opening one included."""
_RETRY_S = 2.0
"""A transaction that may succeed in a moment is tried again for this long; who called has a back-off of its own."""
_CONNECTIONS = 8
_MADE_MEANWHILE = frozenset(
    f"Neo.ClientError.Schema.{rule}"
    for rule in (
        "EquivalentSchemaRuleAlreadyExists", "IndexAlreadyExists", "ConstraintAlreadyExists",
        "IndexWithNameAlreadyExists", "ConstraintWithNameAlreadyExists",
    )
)  # fmt: skip
"""What the server says of a rule that another process made in the same moment: IF NOT EXISTS looks before it locks."""
_SCHEMA_TRIALS = 8
_SCHEMA_PAUSE_S = 0.1
_AWAY = (ServiceUnavailable, SessionExpired, TransientError, ConnectionPoolError)

Answer = TypeVar("Answer")
Work = Callable[[AsyncManagedTransaction], Awaitable[Answer]]


class Neo4jClient:
    """Runs coroutines on its own loop; closes with `close`. Threads may share it."""

    def __init__(self, url: str, *, user: str, password: str, database: str, ca_file: Path | None) -> None:
        """Opens nothing yet.

        Raises:
            ConfigError: the address cannot be one of Neo4j.
        """
        self.where = _checked(url)
        self._user = user
        self._database = database
        # In a cluster a read may go to a member that has not got our last write yet; a bookmark makes it wait.
        self._bookmarks = AsyncGraphDatabase.bookmark_manager() if url.startswith("neo4j") else None
        self._loop = asyncio.new_event_loop()
        self._driver = self._open(url, password, ca_file)
        self._thread = threading.Thread(target=self._run_loop, name="neo4j", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Answer], timeout_s: float) -> Answer:
        """Runs a coroutine on the client's loop and waits for it; not from that loop.

        Raises:
            Unavailable: it took longer than `timeout_s`, or the client is closed; else what the work raises.
        """
        if self._loop.is_closed() or not self._thread.is_alive():
            work.close()
            raise Unavailable(f"the connection to Neo4j at {self.where} is closed")
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, timeout_s), self._loop)
        try:
            return future.result()
        except CancelledError as error:
            raise Unavailable(f"the connection to Neo4j at {self.where} was closed") from error
        except TimeoutError as error:
            raise Unavailable(f"Neo4j at {self.where} did not answer within {timeout_s:.0f} s") from error

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Lets a coroutine run on the client's loop until `close`."""
        asyncio.run_coroutine_threadsafe(work, self._loop).add_done_callback(_told)

    async def read(self, work: Work[Answer], limit_s: float) -> Answer:
        """A read transaction, tried again when the server says that a moment later it may work.

        Args:
            limit_s: After this the server ends it by itself.

        Raises:
            Unavailable, Rejected, BackendError: what the driver raises, translated.
        """
        try:
            async with self._session() as session:
                return await session.execute_read(unit_of_work(timeout=limit_s)(work))
        except (Neo4jError, DriverError, OSError) as error:
            raise self.translated(error) from error

    async def write(self, work: Work[Answer], limit_s: float) -> Answer:
        """A write transaction; committed when it returns. Errors and trials as in `read`, so `work` may run twice.

        Args:
            limit_s: After this the server ends it by itself, so that a client that vanished in its midst holds no
                lock.
        """
        try:
            async with self._session() as session:
                return await session.execute_write(unit_of_work(timeout=limit_s)(work))
        except (Neo4jError, DriverError, OSError) as error:
            raise self.translated(error) from error

    async def prepare(self, schema: Mapping[str, str]) -> None:
        """First contact, on the loop: the server's version, and what of the schema is missing is made.

        Raises:
            ConfigError: the server cannot be used as the settings say.
            Unavailable: it does not answer.
        """
        try:
            info = await self._driver.get_server_info()
            _checked_version(info.agent, self.where)
            async with self._session() as session:
                found = await session.run("SHOW INDEXES YIELD name RETURN collect(name) AS names")
                names = set((await found.single(strict=True))["names"])
                missing = [statement for name, statement in schema.items() if name not in names]
                for statement in missing:
                    await _made(session, statement)
                if missing:
                    await (await session.run("CALL db.awaitIndexes(30)")).consume()
        except (Neo4jError, DriverError, OSError) as error:
            raise self._at_start(error) from error

    def verify(self, schema: Mapping[str, str], *, must_answer: bool, limit_s: float) -> bool:
        """`prepare` at the start of a process, within `limit_s`.

        Returns:
            Whether the server answered; False only where it need not.

        Raises:
            ConfigError: the server cannot be used as the settings say.
        """
        try:
            self.run(self.prepare(schema), limit_s)
        except ConfigError:
            raise
        except Unavailable as error:
            if not must_answer:
                return False
            raise Unreachable(
                f"no Neo4j answers at neo4j_url {self.where} ({error}); wanted Neo4j {_version(OLDEST)} or newer: "
                "start it, or correct neo4j_url"
            ) from error
        return True

    def close(self) -> None:
        """Ends all connections; safe to call twice."""
        if self._loop.is_closed():
            return
        # A server that hangs does not hear the farewell; its sockets close with the loop.
        with contextlib.suppress(Unavailable):
            self.run(self._shut(), _CONNECT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CONNECT_S)
        if not self._thread.is_alive():
            self._loop.close()

    def translated(self, error: Neo4jError | DriverError | OSError) -> PlatformError:
        """The driver's error as ours; the message holds no secret."""
        if isinstance(error, (*_AWAY, OSError)):
            return Unavailable(f"Neo4j at {self.where} is away: {_words(error)}")
        if isinstance(error, Neo4jError):
            code = error.code or ""
            if isinstance(error, AuthError | Forbidden) or ".Security." in code:
                # The password was changed under us: it may be put right while we wait.
                return Unavailable(
                    f"Neo4j at {self.where} does not let neo4j_user {self._user!r} do this ({_words(error)}); correct "
                    "neo4j_user or neo4j_password, or grant what is missing", retry_after_s=10.0,
                )  # fmt: skip
            if ".DatabaseError." in code or ".DatabaseNotFound" in code or ".Terminated" in code or "TimedOut" in code:
                return Unavailable(f"Neo4j at {self.where} cannot do this now: {_words(error)}")
            return Rejected(f"Neo4j at {self.where} refuses this: {_words(error)}")
        return BackendError(f"Neo4j at {self.where}: {_words(error)}")

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _open(self, url: str, password: str, ca_file: Path | None) -> AsyncDriver:
        options: dict[str, Any] = {}  # the driver tells "not given" from None
        if ca_file is not None:
            if not ca_file.is_file():
                raise ConfigError(f"neo4j_ca is {ca_file}, which is no file; wanted a PEM file")
            options["trusted_certificates"] = TrustCustomCAs(str(ca_file))
        try:
            return AsyncGraphDatabase.driver(
                url, auth=(self._user, password), connection_timeout=_CONNECT_S, connection_write_timeout=_SEND_S,
                connection_acquisition_timeout=_ACQUIRE_S, max_connection_pool_size=_CONNECTIONS,
                max_transaction_retry_time=_RETRY_S, keep_alive=True, user_agent="headspring", telemetry_disabled=True,
                notifications_min_severity=NotificationMinimumSeverity.OFF, **options,
            )  # fmt: skip
        except (ConfigurationError, ValueError, OSError) as error:
            raise ConfigError(f"neo4j_url {self.where} or neo4j_ca cannot be used: {_words(error)}") from error

    def _session(self) -> AsyncSession:
        # 20 records hold 100 000 rows; asking for more of them costs a round trip each time.
        return self._driver.session(database=self._database, fetch_size=100, bookmark_manager=self._bookmarks)

    def _at_start(self, error: Neo4jError | DriverError | OSError) -> PlatformError:
        """What an operator must put right is a `ConfigError` that names the setting."""
        words, code = _words(error), (error.code or "") if isinstance(error, Neo4jError) else ""
        if isinstance(error, Forbidden) or code.endswith(".Forbidden"):
            return ConfigError(
                f"neo4j_user {self._user!r} may not make constraints and indexes in Neo4j at {self.where} ({words}); "
                "grant it index and constraint management, or let an administrator start Headspring once"
            )
        if isinstance(error, AuthError) or ".Security." in code:
            return ConfigError(
                f"Neo4j at {self.where} does not let neo4j_user {self._user!r} in ({words}); correct neo4j_user or "
                "neo4j_password"
            )
        if code.endswith(".DatabaseNotFound"):
            return ConfigError(f"Neo4j at {self.where} has no database {self._database!r}; create it")
        if isinstance(error, UnsupportedServerProduct):
            return ConfigError(
                f"what answers at neo4j_url {self.where} is no Neo4j {_version(OLDEST)} or newer ({words}); "
                "upgrade it, or correct neo4j_url"
            )
        if "looks like HTTP" in words:
            return ConfigError(
                f"at neo4j_url {self.where} answers an HTTP server; wanted Neo4j's Bolt port, 7687 by default: "
                "correct neo4j_url"
            )
        if isinstance(error, ConfigurationError) or _caused_by(error, "BoltSecurityError"):
            return ConfigError(f"neo4j_url {self.where} cannot be used: {words}; correct its scheme, or neo4j_ca")
        return self.translated(error)

    async def _shut(self) -> None:
        """Ends what runs on the loop, then the driver."""
        me = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not me]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._driver.close()


async def _made(session: AsyncSession, statement: str) -> None:
    """Makes one rule of the schema, or leaves it to another process that does so in the same moment."""
    for trial in range(1, _SCHEMA_TRIALS + 1):
        try:
            await (await session.run(statement)).consume()
        except TransientError:  # each of two processes waits for what the other has locked
            if trial == _SCHEMA_TRIALS:
                raise
            await asyncio.sleep(_SCHEMA_PAUSE_S * trial * random.uniform(0.5, 1.5))  # noqa: S311 - spreads processes
        except Neo4jError as error:
            if error.code not in _MADE_MEANWHILE:
                raise
            return
        else:
            return


def _told(future: Future[None]) -> None:
    """A coroutine that should run to the end has ended early: a defect."""
    if not future.cancelled() and future.exception() is not None:
        _LOG.error("what keeps the topology up to date has failed: restart the process", exc_info=future.exception())


def _checked(url: str) -> str:
    """The address for messages, if it can be one of Neo4j."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"neo4j_url cannot be read ({error}); wanted bolt://HOST:PORT or neo4j+s://HOST") from error
    if parts.scheme not in _SCHEMES or not parts.hostname:
        shown = url if "@" not in url else "with a password in it"
        raise ConfigError(f"neo4j_url is {shown!r}; wanted {', '.join(_SCHEMES)} and ://HOST:PORT")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("neo4j_url holds a user or a password; give them as neo4j_user and neo4j_password")
    return f"{parts.scheme}://{parts.hostname}{f':{port}' if port else ''}"


def _checked_version(agent: str, where: str) -> None:
    """`agent`: as the server calls itself, `Neo4j/5.26.0`."""
    found = re.match(r"Neo4j/(\d+)\.(\d+)", agent)
    if found is None or (int(found[1]), int(found[2])) < OLDEST:
        raise ConfigError(
            f"the server at neo4j_url {where} is {agent}; wanted Neo4j {_version(OLDEST)} or newer: upgrade it, or "
            "correct neo4j_url"
        )


def _version(numbers: Sequence[int]) -> str:
    return ".".join(map(str, numbers))


def _words(error: Exception) -> str:
    """The error's text in one line."""
    text = (error.message if isinstance(error, Neo4jError) else None) or str(error) or type(error).__name__
    return " ".join(text.split()).rstrip(".")[:300]


def _caused_by(error: BaseException | None, name: str) -> bool:
    while error is not None:
        if type(error).__name__ == name:
            return True
        error = error.__cause__
    return False
