"""The demo's display: plain lines where nobody watches, a table where somebody does."""

from __future__ import annotations

import io

from rich.console import Console

from headspring.gateway.demo.screen import STAGES, Screen


def test_a_pipe_gets_a_line_when_a_stage_changes_its_state_and_not_for_every_text() -> None:
    out = io.StringIO()
    with Screen("demo", Console(file=out, width=60)) as screen:
        screen.stage("samples", "1")
        screen.stage("samples", "2")
        screen.stage("samples", "all", "done")
    lines = out.getvalue().splitlines()
    assert lines[0] == "demo"
    assert [line.split(" s  ")[1] for line in lines[1:]] == ["… samples: 1", "✓ samples: all"]


def test_long_lines_stay_whole_and_brackets_are_text() -> None:
    out = io.StringIO()
    text = "[red]" + "x" * 300
    with Screen("demo", Console(file=out, width=60)) as screen:
        screen.stage("cause", text)
    assert text in out.getvalue().splitlines()[1]


def test_a_terminal_sees_every_stage_with_its_text() -> None:
    out = io.StringIO()
    with Screen("demo", Console(file=out, width=100, force_terminal=True)) as screen:
        screen.stage("cause", "service:default/payment [likely]")
    text = out.getvalue()
    assert "service:default/payment [likely]" in text
    assert all(stage in text for stage in STAGES)
