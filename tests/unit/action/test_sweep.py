"""What a process left untold, unpublished or unsent is made up for by the next sweep, and only once it is settled."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headspring.action.audit.chain import AuditLog
from headspring.action.notify.dispatch import Dispatcher
from headspring.action.notify.port import Notification
from headspring.action.store import RunStore
from headspring.action.testing.runs import decision, event, plan
from headspring.action.trail import SETTLED_NS, Trail
from headspring.proto.action import RunState
from headspring.proto.clock import NS_PER_S, ManualClock
from headspring.proto.errors import Unavailable

START_NS = 1_700_000_000 * NS_PER_S


class Channel:
    """A channel that can be away."""

    name = "channel"

    def __init__(self) -> None:
        self.away = False
        self.sent: list[str] = []
        self.asked = threading.Event()

    def send(self, notification: Notification) -> None:
        self.asked.set()
        if self.away:
            raise Unavailable("the channel is away")
        self.sent.append(notification.title)


class Topic:
    """Where events go; it can be away."""

    def __init__(self) -> None:
        self.away = False
        self.keys: list[bytes] = []

    def __call__(self, topic: str, key: bytes, value: bytes, time_ns: int) -> None:
        if self.away:
            raise Unavailable("the topic is away")
        self.keys.append(key)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(start_ns=START_NS)


@pytest.fixture
def channel() -> Channel:
    return Channel()


@pytest.fixture
def topic() -> Topic:
    return Topic()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    found = RunStore(tmp_path / "actions.db")
    yield found
    found.close()


@pytest.fixture
def trail(store: RunStore, tmp_path: Path, channel: Channel, topic: Topic, clock: ManualClock) -> Iterator[Trail]:
    audit = AuditLog(tmp_path / "audit.db", tmp_path / "audit.key", tmp_path / "audit.head")
    dispatcher = Dispatcher([channel], tmp_path / "notify.db")
    made = Trail(store=store, audit=audit, dispatcher=dispatcher, emit=topic, clock=clock, page_url="")
    yield made
    made.close()
    dispatcher.close()
    audit.close()


def _run(store: RunStore) -> None:
    store.add("run-1", plan(created_ns=START_NS))


def _sent(channel: Channel, count: int) -> bool:
    deadline = time.monotonic() + 5
    while len(channel.sent) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return len(channel.sent) == count


def test_what_is_untold_is_left_to_its_process_until_it_is_settled(
    store: RunStore, trail: Trail, clock: ManualClock, topic: Topic, channel: Channel
) -> None:
    _run(store)
    trail.sweep()
    assert store.unemitted() == []
    assert topic.keys == []
    clock.advance(SETTLED_NS / NS_PER_S + 1)
    trail.sweep()
    found = store.run("run-1")
    assert found is not None
    assert [one.state for one in found.events] == [RunState.WAITING_APPROVAL]
    assert len(topic.keys) == 1
    assert _sent(channel, 1)
    clock.advance(60)
    trail.sweep()
    assert len(topic.keys) == 1
    assert _sent(channel, 1)


def test_a_decision_without_an_event_of_who_made_it_is_told(store: RunStore, trail: Trail, clock: ManualClock) -> None:
    _run(store)
    store.add_event(event(1, time_ns=START_NS))
    store.decide("run-1", decision("bob", "reject", time_ns=START_NS + 1))
    clock.advance(60)
    trail.sweep()
    found = store.run("run-1")
    assert found is not None
    assert [(one.actor, one.state) for one in found.events][1:] == [("bob", RunState.REJECTED)]


def test_an_event_that_could_not_be_published_is_published_later(
    store: RunStore, trail: Trail, clock: ManualClock, topic: Topic
) -> None:
    _run(store)
    store.add_event(event(1, time_ns=START_NS))
    clock.advance(60)
    topic.away = True
    with pytest.raises(Unavailable):
        trail.sweep()
    assert len(store.unemitted()) == 1
    topic.away = False
    trail.sweep()
    assert len(topic.keys) == 1
    assert store.unemitted() == []


def test_a_message_that_a_channel_did_not_take_is_sent_later_unless_it_is_of_the_past(
    store: RunStore, trail: Trail, clock: ManualClock, channel: Channel
) -> None:
    _run(store)
    found = store.run("run-1")
    assert found is not None
    channel.away = True
    trail.note_request(found)
    assert channel.asked.wait(5)
    clock.advance(60)
    channel.away = False
    time.sleep(0.2)  # the failure is noted
    trail.sweep()
    assert _sent(channel, 1)
    channel.away = True
    channel.asked.clear()
    store.move("run-1", RunState.VOIDED, clock.now_ns())
    trail.note(found, RunState.VOIDED, "withdrawn")
    assert channel.asked.wait(5)
    clock.advance(3600)
    channel.away = False
    trail.sweep()
    time.sleep(0.3)
    assert len(channel.sent) == 1
