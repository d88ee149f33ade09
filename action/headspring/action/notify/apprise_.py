"""Notifications through Apprise: chats, mail, pagers, each named by one of its addresses.

Source of the addresses: https://github.com/caronc/apprise/wiki
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from headspring.action.notify.port import Notification
from headspring.proto.errors import ConfigError, Unavailable

_TYPES: Mapping[str, str] = {"info": "info", "warning": "warning", "error": "failure", "critical": "failure"}


class AppriseNotifier:
    """Sends to every address; counts as failed when any of them does not take it."""

    def __init__(self, urls: Sequence[str]) -> None:
        """
        Args:
            urls: Apprise addresses. They hold secrets, so no message of ours shows them.
        """
        self._urls = tuple(urls)
        self._lock = threading.Lock()
        self._target: Any = None  # apprise ships no types; imported on the first message, it is heavy

    @property
    def name(self) -> str:
        return "apprise"

    def send(self, notification: Notification) -> None:
        body = notification.body + (f"\n{notification.url}" if notification.url else "")
        with self._lock:
            sent = self._opened().notify(
                title=notification.title, body=body, notify_type=_TYPES.get(notification.severity, "warning")
            )
        if not sent:
            raise Unavailable("at least one notification address did not take the message", retry_after_s=30.0)

    def _opened(self) -> Any:
        if self._target is None:
            import apprise

            target = apprise.Apprise()
            for number, url in enumerate(self._urls, 1):
                scheme = url.partition("://")[0][:20]
                if not target.add(url):
                    raise ConfigError(f"notification address {number} ({scheme}://…) is not one that Apprise knows")
            self._target = target
        return self._target
