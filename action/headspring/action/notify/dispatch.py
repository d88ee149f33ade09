"""Sends to every channel in the background, tries again, and keeps what became of each message.

A run never waits for a chat service: messages queue in memory, bounded, and one thread sends them.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from headspring.action.notify.port import Notification, Notifier
from headspring.proto.errors import PlatformError

logger = logging.getLogger(__name__)

_TRIES = 4
_WAIT_S = 1.0
"""Before the second try; doubles with each further one."""
_MAX_QUEUED = 1000
_KEPT = 2000
_MAX_CHARS = 4000
_CONTROL = dict.fromkeys([*range(0x20), 0x7F, *range(0x80, 0xA0)], " ")
"""Text from telemetry must not steer a terminal or a chat client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What became of a message on a channel: `sent` or `failed`."""

    incident_id: str
    channel: str
    title: str
    state: str
    tries: int


class Dispatcher:
    """See the module."""

    def __init__(self, notifiers: Sequence[Notifier]) -> None:
        self._notifiers = tuple(notifiers)
        self._queue: queue.Queue[Notification | None] = queue.Queue(_MAX_QUEUED)
        self._done: deque[Delivery] = deque(maxlen=_KEPT)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="notify", daemon=True)
        self._thread.start()

    def send(self, notification: Notification) -> None:
        """Queues a message for every channel; when the queue is full it is counted as failed, never waited for."""
        clean = replace(notification, title=_clean(notification.title), body=_clean(notification.body))
        try:
            self._queue.put_nowait(clean)
        except queue.Full:
            for notifier in self._notifiers:
                self._note(clean, notifier.name, "failed", 0)

    def deliveries(self, incident_id: str) -> Sequence[Delivery]:
        """What became of an incident's messages, oldest first."""
        return [delivery for delivery in list(self._done) if delivery.incident_id == incident_id]

    def close(self, *, within_s: float = 5.0) -> None:
        """Sends what is queued, as far as that goes in time."""
        self._queue.put(None)
        self._thread.join(within_s)
        self._stop.set()

    def _work(self) -> None:
        while (notification := self._queue.get()) is not None:
            for notifier in self._notifiers:
                self._deliver(notifier, notification)

    def _deliver(self, notifier: Notifier, notification: Notification) -> None:
        wait_s = _WAIT_S
        for number in range(1, _TRIES + 1):
            try:
                notifier.send(notification)
            except (PlatformError, OSError) as error:
                if number == _TRIES or not getattr(error, "retryable", True) or self._stop.wait(wait_s):
                    logger.warning("notification through %s failed: %s", notifier.name, error)
                    self._note(notification, notifier.name, "failed", number)
                    return
                wait_s *= 2
            else:
                self._note(notification, notifier.name, "sent", number)
                return

    def _note(self, notification: Notification, channel: str, state: str, tries: int) -> None:
        self._done.append(
            Delivery(
                incident_id=notification.incident_id, channel=channel, title=notification.title, state=state,
                tries=tries,
            )
        )  # fmt: skip


def _clean(text: str) -> str:
    return text.translate(_CONTROL)[:_MAX_CHARS]
