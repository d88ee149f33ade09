"""Kafka's errors as ours: one line that says what was found, what was wanted and what to do.

At start whatever an operator must put right is a `ConfigError` (`at_start`). Later on a broker that is away is
`Unavailable`; what no retry can help is `Rejected`, and what an operator must put right is still a `ConfigError`
(`translate`).
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from confluent_kafka import KafkaError, KafkaException

from headspring.proto.errors import ConfigError, PlatformError, Rejected, Unavailable, Unreachable
from headspring.streaming.log.kafka.connection import KafkaConnection

_LOG = logging.getLogger(__name__)
_SAY_EVERY_S = 60.0
"""A broker that is away is heard of at every try to reach it."""
_EXPLAINS_S = 60.0
"""What was heard longer ago explains nothing any more."""
OLDEST_SERVER = "2.8"
"""Brokers from here on let who may write a topic be an idempotent producer without a permission of its own."""
_SIGN_IN = frozenset(
    {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError.UNSUPPORTED_SASL_MECHANISM,
     KafkaError.ILLEGAL_SASL_STATE, KafkaError.SECURITY_DISABLED}
)  # fmt: skip
_FORBIDDEN = frozenset(
    {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED,
     KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED}
)  # fmt: skip
TOO_OLD = frozenset({KafkaError.UNSUPPORTED_VERSION, KafkaError._UNSUPPORTED_FEATURE})
"""What a server of before answers to a request, or the client in its place."""
_UNREACHABLE = frozenset(
    {KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT,
     KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT_QUEUE, KafkaError._WAIT_COORD, KafkaError.REQUEST_TIMED_OUT}
)  # fmt: skip
_TOO_LARGE = frozenset(
    {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_MSG_SIZE}
)  # fmt: skip
_FEW_REPLICAS = frozenset(
    {KafkaError.NOT_ENOUGH_REPLICAS, KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND, KafkaError._ISR_INSUFF}
)  # fmt: skip
_GONE = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION,
     KafkaError.UNKNOWN_TOPIC_ID}
)  # fmt: skip
_REFUSED = frozenset(
    {KafkaError.INVALID_RECORD, KafkaError.INVALID_TIMESTAMP, KafkaError.INVALID_MSG, KafkaError.POLICY_VIOLATION,
     KafkaError.TOPIC_EXCEPTION, KafkaError._INVALID_ARG, KafkaError.OFFSET_METADATA_TOO_LARGE,
     KafkaError.INVALID_GROUP_ID}
)  # fmt: skip
_RETRY = frozenset(
    {KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR,
     KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_CONTROLLER,
     KafkaError.NETWORK_EXCEPTION, KafkaError.FENCED_LEADER_EPOCH, KafkaError.UNKNOWN_LEADER_EPOCH,
     KafkaError.REQUEST_TIMED_OUT, KafkaError.OFFSET_NOT_AVAILABLE,
     KafkaError.UNSTABLE_OFFSET_COMMIT, KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._WAIT_COORD,
     KafkaError._TIMED_OUT_QUEUE, KafkaError._ALL_BROKERS_DOWN, KafkaError._UNKNOWN_BROKER}
)  # fmt: skip
_AFTER = re.compile(r"\s*\(after \d+ms in state [A-Z0-9_]+(, \d+ identical error\(s\) suppressed)?\)")
_WHERE = re.compile(r"^\S+/(bootstrap|\d+): ")


class Heard:
    """What a client of librdkafka says by itself: the reason behind a time-out. Give `heard` as `error_cb`."""

    def __init__(self, client: str) -> None:
        """
        Args:
            client: What the client is called, for our log.
        """
        self._client = client
        self._errors: deque[tuple[float, KafkaError]] = deque(maxlen=16)
        self._lock = threading.Lock()
        self._said_s = -_SAY_EVERY_S

    def heard(self, error: KafkaError) -> None:
        """Any thread; tells our log now and then."""
        now_s = time.monotonic()
        with self._lock:
            self._errors.append((now_s, error))
            if now_s - self._said_s < _SAY_EVERY_S:
                return
            self._said_s = now_s
        _LOG.warning("kafka client has trouble and goes on trying: client=%s reason=%s", self._client, words(error))

    def sign_in_refused(self) -> KafkaError | None:
        """The broker's refusal to let us in, if it said so."""
        return self._newest(lambda error: error.code() in _SIGN_IN)

    def reason(self) -> str:
        """The newest thing that explains why no broker answers; "" when nothing was said lately."""
        error = self._newest(lambda error: error.code() != KafkaError._ALL_BROKERS_DOWN)
        return words(error) if error is not None else ""

    def _newest(self, wanted: Callable[[KafkaError], bool]) -> KafkaError | None:
        oldest_s = time.monotonic() - _EXPLAINS_S
        with self._lock:
            return next((error for at_s, error in reversed(self._errors) if at_s >= oldest_s and wanted(error)), None)


def words(error: KafkaError) -> str:
    """The error's text without the client's own book-keeping."""
    return _WHERE.sub("", _AFTER.sub("", error.str())).strip().rstrip(".")


def error_of(failure: KafkaException | KafkaError) -> KafkaError:
    """The error inside an exception."""
    if isinstance(failure, KafkaError):
        return failure
    inner = failure.args[0] if failure.args else None
    return inner if isinstance(inner, KafkaError) else KafkaError(KafkaError._FAIL, str(failure))


def retryable(error: KafkaError) -> bool:
    """Whether the same request may succeed in a moment: a leader or coordinator moves, a connection broke."""
    return error.retriable() or error.code() in _RETRY


def gone(error: KafkaError) -> bool:
    """Whether who answered knows no such topic or partition."""
    return error.code() in _GONE


def a_person_must_act(error: KafkaError) -> bool:
    """Whether it is a wrong sign-in or a missing permission."""
    return error.code() in _SIGN_IN or error.code() in _FORBIDDEN


def translate(
    failure: KafkaException | KafkaError, connection: KafkaConnection, *, doing: str, permission: str = "",
    retry_after_s: float = 1.0,
) -> PlatformError:  # fmt: skip
    """The error to raise while running.

    Args:
        doing: What was tried, as "cannot {doing}", with the topic's or group's name.
        permission: What it takes, as `Write on topic alerts`.
    """
    error = error_of(failure)
    code = error.code()
    if code in _FORBIDDEN:
        return forbidden(connection, permission or doing)
    if code in _SIGN_IN:
        return sign_in_refused(connection, error)
    if code in TOO_OLD:
        return too_old(connection, f"cannot {doing}: {words(error)}")
    if code in _TOO_LARGE:
        return Rejected(
            f"cannot {doing}: Kafka takes no record of this size ({words(error)}); raise max.message.bytes and "
            "segment.bytes of the topic"
        )
    if code in _REFUSED:
        return Rejected(f"cannot {doing}: Kafka refuses it ({words(error)})")
    return Unavailable(
        f"cannot {doing} on Kafka at {connection.servers}: {_why(error)}", retry_after_s=_patience(code, retry_after_s)
    )


def at_start(
    failure: KafkaException | KafkaError, connection: KafkaConnection, heard: Heard, *, doing: str
) -> PlatformError:
    """The error to raise from `open`: a broker that cannot be reached is a wrong setting until shown otherwise."""
    refused = heard.sign_in_refused()
    if refused is not None:
        return sign_in_refused(connection, refused)
    error = error_of(failure)
    if error.code() in _UNREACHABLE:
        return unreachable(connection, heard.reason() or words(error))
    return translate(error, connection, doing=doing)


def unreachable(connection: KafkaConnection, reason: str) -> Unreachable:
    return Unreachable(
        f"no Kafka answers at kafka.servers {connection.servers} over {connection.security_protocol} ({reason}); "
        f"wanted a broker of Kafka {OLDEST_SERVER} or newer: start it, or correct kafka.servers and "
        "kafka.security_protocol; if it does not stay up, its own log says why (a full disk ends a broker)"
    )


def leaderless(connection: KafkaConnection, topic: str, partitions: Sequence[int], *, doing: str) -> Unavailable:
    """Some partitions have no leader, so nobody can read or write them."""
    return Unavailable(
        f"cannot {doing} on Kafka at {connection.servers}: of {topic} the partitions "
        f"{', '.join(map(str, partitions))} have no leader; the broker that has them is down or could not write its "
        "disk, as its log tells: free or replace the disk and start that broker (again)",
        retry_after_s=5.0,
    )


def sign_in_refused(connection: KafkaConnection, error: KafkaError) -> ConfigError:
    return ConfigError(
        f"Kafka at {connection.servers} does not let kafka.username {connection.username!r} in by "
        f"{connection.sasl_mechanism or 'no mechanism'} ({words(error)}); correct kafka.username, kafka.password or "
        "kafka.sasl_mechanism"
    )


def forbidden(connection: KafkaConnection, *permissions: str) -> ConfigError:
    """
    Args:
        permissions: Each as `Write on topic alerts`.
    """
    return ConfigError(
        f"{connection.who} lacks permissions at Kafka {connection.servers}: {', '.join(permissions)}; allow them with "
        f"kafka-acls --add --allow-principal {connection.who}, or sign in as somebody else"
    )


def too_old(connection: KafkaConnection, found: str) -> ConfigError:
    return ConfigError(
        f"the Kafka at {connection.servers} is too old ({found}); wanted Kafka {OLDEST_SERVER} or newer: upgrade it"
    )


def _why(error: KafkaError) -> str:
    code = error.code()
    if code == KafkaError.KAFKA_STORAGE_ERROR:
        return (
            "a broker cannot write its disk; its log names the folder: free or replace the disk and start that broker "
            "again, for it leaves alone what it could not write once"
        )
    if code in _FEW_REPLICAS:
        return "fewer brokers are in sync than min.insync.replicas asks for; it goes on when they are back"
    if code in _GONE:
        return "the topic is gone; a new start makes it again"
    if code == KafkaError._MSG_TIMED_OUT:
        return "no acknowledgement came in time; is a broker away, or its disk full?"
    return f"{words(error)}; it is tried again"


def _patience(code: int, retry_after_s: float) -> float:
    return 5.0 if code == KafkaError.KAFKA_STORAGE_ERROR or code in _FEW_REPLICAS else retry_after_s
