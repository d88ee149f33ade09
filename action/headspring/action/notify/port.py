"""The notifier port: one message to one channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    incident_id: str
    title: str
    body: str
    severity: str
    """`info`, `warning` or `critical`."""
    url: str = ""
    """Page to open; "" none."""


class Notifier(Protocol):
    """A channel. Blocking; may be called from several threads."""

    @property
    def name(self) -> str: ...

    def send(self, notification: Notification) -> None:
        """
        Raises:
            Unavailable: it did not get through; sending again later is right.
        """
        ...
