"""The connection to Redis: bounded waits, and every error of the client as one of ours, without passwords."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from headspring.proto.errors import BackendError, ConfigError, Rejected, Unavailable

MIN_VERSION = (7, 0)
"""The oldest that the contract suite is run against."""
_PAUSE_S = 1.0
"""After a failure, calls fail at once for so long: or every caller would wait its own time out."""
_REASON_CHARS = 200
_CONNECTING = re.compile(r"^Error -?\d+ connecting to \S+ (.*?)\.?$")


class RedisServer:
    """One pool of connections. Thread-safe."""

    def __init__(
        self, url: str, *, user: str = "", password: str = "", prefix: str = "headspring", ca_file: Path | None = None,
        timeout_s: float = 0.5, must_answer: bool = True, monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """
        Args:
            url: `redis[s]://HOST:PORT/DATABASE`.
            prefix: starts every key, so that installations can share a server.
            timeout_s: for a connection, and for an answer: callers have something better to do than to wait.
            must_answer: False: a server that is away now is no error, but used when it comes.

        Raises:
            ConfigError: the address or the sign-in cannot be used, or the server is too old.
            Unavailable: nothing answers at the address, and it must.
        """
        host, port, database, tls = _address(url)
        self.where = f"{host}:{port}"
        self.prefix = prefix
        self.notes: tuple[str, ...] = ()
        """What costs something without being wrong."""
        self._timeout_s = timeout_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._paused_until_s = 0.0
        self._paused_by = ""
        options: dict[str, Any] = {}  # the client tells "not given" from None
        if tls:
            options |= {"connection_class": redis.SSLConnection}
            if ca_file is not None:
                if not ca_file.is_file():
                    raise ConfigError(f"redis_ca is {ca_file}, which is no file; wanted a PEM file")
                options |= {"ssl_ca_certs": str(ca_file)}
        pool = redis.BlockingConnectionPool(  # type: ignore[no-untyped-call] # the client types its classes in part
            host=host, port=port, db=database, username=user or None, password=password or None,
            socket_timeout=timeout_s, socket_connect_timeout=timeout_s, max_connections=32, timeout=timeout_s,
            # A connection that was kept and that the server closed: everything we send may be sent twice.
            retry=Retry(NoBackoff(), 1, supported_errors=(exceptions.ConnectionError,)),
            protocol=2, client_name="headspring", **options,
        )  # fmt: skip
        self._client = redis.Redis(connection_pool=pool)
        try:
            self._look()
        except Unavailable as error:
            if must_answer:
                self.close()
                raise
            self._paused_until_s, self._paused_by = monotonic() + _PAUSE_S, str(error)
        except BaseException:
            self.close()
            raise

    def key(self, kind: str, name: str) -> str:
        """The key of something of ours. The braces keep all of one name in one slot of a cluster."""
        return f"{self.prefix}:{kind}:{{{name}}}"

    @contextmanager
    def client(self) -> Iterator[Any]:
        """The client, for one call or one pipeline; what it raises inside comes out as ours.

        Raises:
            Unavailable, Rejected
        """
        with self._lock:
            left_s = self._paused_until_s - self._monotonic()
            if left_s > 0:
                raise Unavailable(self._paused_by, retry_after_s=left_s)
        try:
            yield self._client
        except exceptions.RedisError as error:
            ours = translated(error, self.where, self._timeout_s)
            if isinstance(ours, Unavailable):
                with self._lock:
                    self._paused_until_s, self._paused_by = self._monotonic() + _PAUSE_S, str(ours)
            raise ours from error

    def script(self, text: str) -> Callable[..., Any]:
        """A script that runs on the server as one; called with `keys` and `args` inside `client()`."""
        found: Callable[..., Any] = self._client.register_script(text)
        return found

    def ping(self) -> None:
        """
        Raises:
            Unavailable: the server does not answer as it should.
        """
        with self.client() as client:
            client.ping()

    def close(self) -> None:
        self._client.close()

    def _look(self) -> None:
        """What the server is."""
        try:
            facts: dict[str, Any] = self._client.info()
        except exceptions.AuthenticationError as error:
            raise ConfigError(
                f"Redis at {self.where} refuses the sign-in ({_plain(error)}); correct redis_password"
            ) from error
        except exceptions.InvalidResponse as error:
            raise ConfigError(f"what answers at redis_url {self.where} is not Redis; wanted its address") from error
        except exceptions.ResponseError as error:
            raise ConfigError(f"Redis at {self.where} refuses us: {_plain(error)}; correct redis_url") from error
        except exceptions.RedisError as error:
            raise translated(error, self.where, self._timeout_s) from error
        version = str(facts.get("redis_version", "0"))
        if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < MIN_VERSION:
            raise ConfigError(
                f"Redis at {self.where} is version {version}; wanted {'.'.join(map(str, MIN_VERSION))} or newer: "
                "upgrade it"
            )
        if facts.get("role") == "slave":
            raise ConfigError(f"Redis at {self.where} is a replica, which takes no writes; set redis_url to its master")
        if str(facts.get("maxmemory_policy", "")).startswith("allkeys"):
            self.notes = (
                f"maxmemory-policy is {facts['maxmemory_policy']}: under pressure it throws out locks as well; "
                "start it with volatile-lru or noeviction",
            )


def translated(error: exceptions.RedisError, where: str, timeout_s: float) -> BackendError:
    """What the client raised, as one line of ours."""
    if isinstance(error, exceptions.MaxConnectionsError):
        return Unavailable(f"all connections to Redis at {where} are in use")
    if isinstance(error, exceptions.TimeoutError):
        return Unavailable(f"Redis at {where} did not answer within {timeout_s:g} s")
    if isinstance(error, (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)):
        return Unavailable(f"Redis at {where} does not allow this: {_plain(error)}", retry_after_s=5.0)
    if isinstance(error, exceptions.ConnectionError):  # also while it loads its data
        return Unavailable(f"Redis at {where} is away: {_plain(error)}")
    if isinstance(error, (exceptions.ReadOnlyError, exceptions.OutOfMemoryError, exceptions.MasterDownError)):
        return Unavailable(f"Redis at {where} takes no writes now: {_plain(error)}")
    if isinstance(error, exceptions.ResponseError) and str(error).startswith(("MISCONF", "BUSY", "TRYAGAIN")):
        return Unavailable(f"Redis at {where} takes no writes now: {_plain(error)}")
    return Rejected(f"Redis at {where}: {_plain(error)}")


def _plain(error: exceptions.RedisError) -> str:
    text = " ".join(str(error).split())
    return _CONNECTING.sub(r"\1", text)[:_REASON_CHARS] or type(error).__name__


def _address(url: str) -> tuple[str, int, int, bool]:
    """Host, port, database, whether TLS."""
    try:
        parts = urlsplit(url)
        database = parts.path.strip("/") or "0"
        ok = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and parts.port != 0 and database.isdigit()
    except ValueError:
        raise ConfigError(f"redis_url is {url!r}, which is no address; wanted redis[s]://HOST:PORT/DATABASE") from None
    if parts.username or parts.password:
        # Not repeated here: it may hold a password.
        raise ConfigError("redis_url holds a user or password; set redis_password instead")
    if not ok or parts.query or parts.fragment or parts.hostname is None:
        raise ConfigError(f"redis_url is {url!r}; wanted redis[s]://HOST:PORT/DATABASE")
    return parts.hostname, parts.port or 6379, int(database), parts.scheme == "rediss"
