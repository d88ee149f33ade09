"""Notifications as lines on a terminal."""

from __future__ import annotations

import sys
import threading
from typing import TextIO

from headspring.action.notify.port import Notification
from headspring.proto.errors import Unavailable


class ConsoleNotifier:
    """Writes one line each, to standard error when no stream is given."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return "console"

    def send(self, notification: Notification) -> None:
        line = f"[{notification.severity}] {notification.incident_id} {notification.title}: {notification.body}"
        line = " ".join(f"{line} {notification.url}".split())
        stream = self._stream if self._stream is not None else sys.stderr  # looked up late: it may be redirected
        try:
            with self._lock:
                stream.write(line + "\n")
                stream.flush()
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            raise Unavailable(f"the console does not take it: {error}") from error
