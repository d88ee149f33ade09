"""One message per incident, channel and kind, however often it is asked for."""

from __future__ import annotations

import logging
import re
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

from headspring.action.notify.port import Notification, Notifier
from headspring.proto.errors import PlatformError

logger = logging.getLogger(__name__)

MAX_REMEMBERED = 100_000
"""Messages remembered without a store, oldest forgotten first; about 20 MB."""
MAX_TITLE_CHARS = 200
MAX_BODY_CHARS = 4_000

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_Key = tuple[str, str, str]


class Delivery(StrEnum):
    SENT = "sent"
    REPEATED = "repeated"
    """Was sent before; not sent again."""
    FAILED = "failed"
    """The channel did not take it; the next request tries again."""


class Dispatcher:
    """Sends to every channel. Safe to call from several threads; one failing channel does not keep the others."""

    def __init__(self, notifiers: Sequence[Notifier], store: Path | None = None) -> None:
        """
        Args:
            store: Where what was sent is remembered over restarts; None remembers in memory only.
        """
        self._notifiers = tuple(notifiers)
        self._lock = threading.Lock()
        self._sent: OrderedDict[_Key, None] = OrderedDict()
        self._db: sqlite3.Connection | None = None
        if store is not None:
            store.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(store, check_same_thread=False, isolation_level=None, timeout=10.0)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS sent (incident TEXT, channel TEXT, kind TEXT,"
                " PRIMARY KEY (incident, channel, kind)) WITHOUT ROWID"
            )

    def send(self, notification: Notification) -> Mapping[str, Delivery]:
        """What became of the message, by channel. Raises nothing that a channel raises on purpose.

        A crash between sending and remembering sends once more: twice is better than never.
        """
        clean = replace(
            notification,
            title=cleaned(notification.title, MAX_TITLE_CHARS).replace("\n", " "),
            body=cleaned(notification.body, MAX_BODY_CHARS),
            url=cleaned(notification.url, MAX_TITLE_CHARS * 4).replace("\n", ""),
        )
        kind = notification.kind or clean.title
        return {
            notifier.name: self._send(notifier, clean, (notification.incident_id, notifier.name, kind))
            for notifier in self._notifiers
        }

    def close(self) -> None:
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    def _send(self, notifier: Notifier, notification: Notification, key: _Key) -> Delivery:
        if not self._claim(key):
            return Delivery.REPEATED
        try:
            notifier.send(notification)
        except PlatformError as error:
            logger.warning("notification over %s failed, incident %s: %s", notifier.name, key[0], error)
            with self._lock:
                self._sent.pop(key, None)
            return Delivery.FAILED
        if self._db is not None:
            with self._lock:
                self._db.execute("INSERT OR IGNORE INTO sent VALUES (?, ?, ?)", key)
        return Delivery.SENT

    def _claim(self, key: _Key) -> bool:
        """Whether the caller is the one to send it."""
        with self._lock:
            if key in self._sent:
                return False
            if (
                self._db is not None
                and self._db.execute(
                    "SELECT 1 FROM sent WHERE incident = ? AND channel = ? AND kind = ?", key
                ).fetchone()
            ):
                return False
            self._sent[key] = None
            while len(self._sent) > MAX_REMEMBERED:
                self._sent.popitem(last=False)
            return True


def cleaned(text: str, limit: int) -> str:
    """Text without control and direction characters (line breaks and tabs stay), at most `limit` characters.

    >>> cleaned("a" + chr(27) + "[31mb", 10)
    'a[31mb'
    """
    text = _UNPRINTABLE.sub("", text)
    return text if len(text) <= limit else text[: limit - 1] + "…"
