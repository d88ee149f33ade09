"""Messages on a stream, for a terminal or a process manager's log."""

from __future__ import annotations

import sys
from typing import TextIO

from headspring.action.notify.port import Notification


class ConsoleNotifier:
    name = "console"

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def send(self, notification: Notification) -> None:
        stream = self._stream or sys.stderr
        tail = f" {notification.url}" if notification.url else ""
        stream.write(f"[{notification.severity}] {notification.title}. {notification.body}{tail}\n")
        stream.flush()
