"""Shows how far an incident has come: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

STAGES = (
    "samples", "series", "alerts", "incident", "cause", "plan", "approval", "execution", "validation", "resolved",
)  # fmt: skip
_MARKS = {"": "·", "active": "…", "done": "✓", "failed": "✗"}
_STYLES = {"": "dim", "active": "yellow", "done": "green", "failed": "red"}


class Screen:
    """One line a stage. On a pipe or in CI a line is printed when a stage's state changes."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._console = console or Console()
        self._title = title
        self._started = time.monotonic()
        self._rows: dict[str, tuple[str, str, float]] = {}
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None

    def __enter__(self) -> Screen:
        if self._live:
            self._live.start()
        else:
            self._console.print(self._title, markup=False, highlight=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def stage(self, name: str, text: str, state: str = "active") -> None:
        """What a stage does now; `state` is `active`, `done` or `failed`."""
        old_text, old_state, since = self._rows.get(name, ("", "", 0.0))
        if (old_text, old_state) == (text, state):
            return
        elapsed = time.monotonic() - self._started
        self._rows[name] = (text, state, elapsed if state != old_state else since)
        if self._live:
            self._live.update(self._table(), refresh=True)
        elif state != old_state:
            self.say(f"{_MARKS[state]} {name}: {text}")

    def say(self, text: str) -> None:
        """A line of its own."""
        elapsed = time.monotonic() - self._started
        self._console.print(f"{elapsed:7.1f} s  {text}", markup=False, highlight=False, soft_wrap=True)

    def _table(self) -> Table:
        table = Table(title=self._title, title_justify="left", show_header=False, box=None, padding=(0, 1))
        for name in STAGES:
            text, state, since = self._rows.get(name, ("", "", 0.0))
            when = f"{since:.1f} s" if state else ""
            style = _STYLES[state]
            table.add_row(f"[{style}]{_MARKS[state]} {name}[/]", f"[dim]{when}[/]", text.replace("[", "\\["))
        return table
