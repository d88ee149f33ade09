"""Keys and sessions go on being known while their database hangs, and nobody waits for it for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from headspring.gateway.auth.remembered import FRESH_S, OUTAGE_S, WAIT_S, Remembered
from headspring.proto.clock import ManualClock
from headspring.proto.errors import Unavailable


class Asked:
    """A database that can be made to hang."""

    def __init__(self) -> None:
        self.rows = {b"ann": "viewer"}
        self.answers = threading.Event()
        self.answers.set()
        self.questions = 0

    def __call__(self, key: bytes) -> str | None:
        self.questions += 1
        self.answers.wait()
        return self.rows.get(key)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(start_ns=0)


@pytest.fixture
def asked() -> Iterator[Asked]:
    found = Asked()
    yield found
    found.answers.set()


@pytest.fixture
def remembered(asked: Asked, clock: ManualClock) -> Iterator[Remembered[str]]:
    found = Remembered(asked, clock=clock, name="the database")
    yield found
    found.close()


def until(remembered: Remembered[str], wanted: str | None) -> None:
    deadline = time.monotonic() + 10
    while remembered.get(b"ann") != wanted:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_is_fresh_is_not_asked_for_again(remembered: Remembered[str], asked: Asked, clock: ManualClock) -> None:
    assert [remembered.get(b"ann") for _ in range(3)] == ["viewer"] * 3
    assert asked.questions == 1
    asked.rows[b"ann"] = "admin"
    clock.advance(FRESH_S)
    assert remembered.get(b"ann") == "admin"
    asked.rows.clear()
    clock.advance(FRESH_S)
    assert remembered.get(b"ann") is None


def test_while_the_database_hangs_what_was_known_counts_and_only_one_caller_waits_once(
    remembered: Remembered[str], asked: Asked, clock: ManualClock
) -> None:
    remembered.get(b"ann")
    clock.advance(FRESH_S)
    asked.answers.clear()
    began_s = time.monotonic()
    assert [remembered.get(b"ann") for _ in range(1000)] == ["viewer"] * 1000
    assert time.monotonic() - began_s < 5 * WAIT_S, "a thousand callers waited"
    assert asked.questions == 2
    asked.rows[b"ann"] = "admin"
    asked.answers.set()
    until(remembered, "admin")


def test_what_was_never_known_is_refused_at_once_while_the_database_hangs(
    remembered: Remembered[str], asked: Asked
) -> None:
    asked.answers.clear()
    began_s = time.monotonic()
    for number in range(200):
        with pytest.raises(Unavailable, match="the database: "):
            remembered.get(b"stranger %d" % number)
    assert time.monotonic() - began_s < 5 * WAIT_S, "two hundred strangers held everybody up"
    asked.answers.set()


def test_strangers_that_wait_do_not_turn_away_who_is_known(
    remembered: Remembered[str], asked: Asked, clock: ManualClock
) -> None:
    remembered.get(b"ann")
    clock.advance(FRESH_S)
    asked.answers.clear()
    for number in range(100):
        with pytest.raises(Unavailable):
            remembered.get(b"stranger %d" % number)
    assert remembered.get(b"ann") == "viewer"


def test_what_nobody_asked_for_lately_is_forgotten(
    remembered: Remembered[str], asked: Asked, clock: ManualClock
) -> None:
    def ask(first: int) -> None:
        for number in range(first, first + 1000):
            asked.rows[b"%d" % number] = "viewer"
            remembered.get(b"%d" % number)

    ask(0)
    clock.advance(OUTAGE_S)
    ask(1000)
    assert len(remembered._known) == 1000


def test_an_outage_is_believed_in_for_a_quarter_of_an_hour(
    remembered: Remembered[str], asked: Asked, clock: ManualClock
) -> None:
    remembered.get(b"ann")
    asked.answers.clear()
    clock.advance(OUTAGE_S - 1)
    assert remembered.get(b"ann") == "viewer"
    clock.advance(1)
    with pytest.raises(Unavailable):
        remembered.get(b"ann")


def test_what_is_being_asked_while_everything_is_forgotten_does_not_come_back(
    remembered: Remembered[str], asked: Asked, clock: ManualClock
) -> None:
    asked.answers.clear()
    with pytest.raises(Unavailable):
        remembered.get(b"ann")
    remembered.clear()
    asked.rows.clear()
    asked.answers.set()
    clock.advance(FRESH_S)
    until(remembered, None)
    time.sleep(0.05)
    assert remembered.get(b"ann") is None
