"""Messages through Apprise, which speaks to chat, paging, mail and webhook services by address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headspring.action.notify.port import Notification
from headspring.proto.errors import ConfigError, Unavailable

_KINDS = {"critical": "failure", "warning": "warning", "info": "info"}


class AppriseNotifier:
    name = "apprise"

    def __init__(self, urls: Sequence[str]) -> None:
        """
        Args:
            urls: Apprise addresses; they hold secrets and are never logged.

        Raises:
            ConfigError: an address is of no service that Apprise knows.
        """
        import apprise

        self._apprise: Any = apprise.Apprise()
        for number, url in enumerate(urls, start=1):
            if not self._apprise.add(url):
                raise ConfigError(f"notification address number {number} is of no service that Apprise knows")

    def send(self, notification: Notification) -> None:
        body = notification.body + (f"\n{notification.url}" if notification.url else "")
        if not self._apprise.notify(
            title=notification.title, body=body, notify_type=_KINDS.get(notification.severity, "info")
        ):
            raise Unavailable("at least one notification address did not take the message")
