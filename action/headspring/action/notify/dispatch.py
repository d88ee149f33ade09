"""One message per incident, channel and kind, however often it is asked for."""

from __future__ import annotations

import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum

from headspring.action.notify.port import Notification, Notifier
from headspring.action.notify.sent import Claim, Key, SentMessages
from headspring.proto.errors import PlatformError, Unavailable
from headspring.proto.relational.database import Place

logger = logging.getLogger(__name__)

MAX_REMEMBERED = 100_000
"""Messages remembered without a store, oldest forgotten first; about 20 MB."""
MAX_TITLE_CHARS = 200
MAX_BODY_CHARS = 4_000

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class Delivery(StrEnum):
    SENT = "sent"
    REPEATED = "repeated"
    """Was sent before; not sent again."""
    FAILED = "failed"
    """The channel did not take it, or the database could not say whose it is; the next request tries again."""


class Dispatcher:
    """Sends to every channel. Safe to call from several threads; one failing channel does not keep the others."""

    def __init__(self, notifiers: Sequence[Notifier], store: Place | None = None) -> None:
        """
        Args:
            store: Where what was sent is remembered over restarts and among processes; None remembers in memory only.
        """
        self._notifiers = tuple(notifiers)
        self._lock = threading.Lock()
        self._sent: OrderedDict[Key, None] = OrderedDict()
        self._store = SentMessages(store) if store is not None else None

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

    def knows(self, incident: str, kind: str) -> bool:
        """Whether this process knows that every channel has the message, or is sending it."""
        with self._lock:
            return all((incident, notifier.name, kind) in self._sent for notifier in self._notifiers)

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    def _send(self, notifier: Notifier, notification: Notification, key: Key) -> Delivery:
        if not self._take(key):
            return Delivery.REPEATED
        claim = None
        try:
            claim = self._store.claim(key) if self._store is not None else Claim.YOURS
            if claim is Claim.YOURS:
                notifier.send(notification)
        except PlatformError as error:
            logger.warning("notification over %s failed, incident %s: %s", notifier.name, key[0], error)
            self._forget(key)
            if claim is Claim.YOURS:
                self._end(key, sent=False)
            return Delivery.FAILED
        if claim is Claim.YOURS:
            self._end(key, sent=True)
            return Delivery.SENT
        if claim is Claim.ELSEWHERE:
            self._forget(key)  # it may fail there
        return Delivery.REPEATED

    def _take(self, key: Key) -> bool:
        """Whether no other thread has sent it or is about to."""
        with self._lock:
            if key in self._sent:
                return False
            self._sent[key] = None
            while len(self._sent) > MAX_REMEMBERED:
                self._sent.popitem(last=False)
            return True

    def _forget(self, key: Key) -> None:
        with self._lock:
            self._sent.pop(key, None)

    def _end(self, key: Key, *, sent: bool) -> None:
        if self._store is None:
            return
        try:
            self._store.end(key, sent=sent)
        except Unavailable as error:
            logger.warning("a notification is not remembered as %s: %s", "sent" if sent else "failed", error)


def cleaned(text: str, limit: int) -> str:
    """Text without control and direction characters (line breaks and tabs stay), at most `limit` characters.

    >>> cleaned("a" + chr(27) + "[31mb", 10)
    'a[31mb'
    """
    text = _UNPRINTABLE.sub("", text)
    return text if len(text) <= limit else text[: limit - 1] + "…"
