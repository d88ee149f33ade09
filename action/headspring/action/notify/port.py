"""What tells people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """One message to people."""

    incident_id: str
    title: str
    body: str
    severity: str = "warning"
    """`info`, `warning`, `error` or `critical`."""
    url: str = ""
    """Where to look; "" where there is no page."""
    kind: str = ""
    """What it is about, for sending it once; "" takes the title."""


class Notifier(Protocol):
    """One way to people: a console, a chat, a mailbox. Blocking; may be called from several threads."""

    @property
    def name(self) -> str:
        """Name of the channel, for lists of what was delivered."""
        ...

    def send(self, notification: Notification) -> None:
        """Hands the message over; delivered as far as the channel can tell when this returns.

        Raises:
            Unavailable: the channel does not take it now.
        """
        ...
