"""The contract of the event log as a test suite: every backend passes it.

Bind it in a test module::

    class TestSegmentLog(EventLogContract):
        @pytest.fixture
        def make_log(self, tmp_path):
            return lambda: SegmentLog.open(tmp_path, clock=SystemClock())

`make_log()` opens the log; called again after `close`, it opens the same log with what it held.
"""

# ruff: noqa: S101 — assertions are what this module is for

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence

import pytest

from headspring.proto.errors import Rejected
from headspring.streaming.log.port import Consumer, EventLog, Record, StoredRecord

MakeLog = Callable[[], Awaitable[EventLog]]


def record(value: str, *, key: str = "k", time_ns: int = 1) -> Record:
    return Record(key=key.encode(), value=value.encode(), time_ns=time_ns)


def values(records: Sequence[StoredRecord]) -> list[str]:
    return [item.record.value.decode() for item in records]


async def take(consumer: Consumer, count: int, *, wait_s: float = 5.0) -> list[StoredRecord]:
    """Polls until `count` records came or a poll comes back empty."""
    taken: list[StoredRecord] = []
    while len(taken) < count:
        records = await consumer.poll(max_records=count - len(taken), max_wait_s=wait_s)
        if not records:
            break
        taken += records
    return taken


class EventLogContract:
    """Subclass it and give it a `make_log` fixture."""

    compacted_topic = "incidents"
    too_large_bytes = 24 * 1024 * 1024 + 1
    """A value that the log under test refuses."""

    @pytest.fixture
    def make_log(self) -> MakeLog:
        raise NotImplementedError("the binding gives a fixture make_log")

    @pytest.fixture
    def topic(self) -> str:
        """A topic that no other test uses."""
        return f"contract-{secrets.token_hex(6)}"

    async def test_records_come_back_as_they_were_in_order(self, make_log: MakeLog, topic: str) -> None:
        log = await make_log()
        sent = [
            Record(key=b"\x00k", value=bytes([n]) * n, time_ns=10**18 + n, headers={"traceparent": f"00-{n}", "ü": "é"})
            for n in range(50)
        ]
        await log.append(topic, sent[:20])
        await log.append(topic, sent[20:])
        got = await take(await log.consumer(topic, "g"), 50)
        assert [item.record for item in got] == sent
        assert [item.offset for item in got] == list(range(got[0].offset, got[0].offset + 50))
        assert {item.topic for item in got} == {topic}
        await log.close()

    async def test_a_new_group_starts_at_the_oldest_record_unless_told_latest(
        self, make_log: MakeLog, topic: str
    ) -> None:
        log = await make_log()
        await log.append(topic, [record("old")])
        oldest = await log.consumer(topic, "oldest")
        latest = await log.consumer(topic, "latest", latest=True)
        await log.append(topic, [record("new")])
        assert values(await take(oldest, 2)) == ["old", "new"]
        assert values(await take(latest, 1)) == ["new"]
        await log.close()

    async def test_latest_is_where_the_group_began_even_if_it_never_committed(
        self, make_log: MakeLog, topic: str
    ) -> None:
        log = await make_log()
        await log.append(topic, [record("old")])
        await (await log.consumer(topic, "g", latest=True)).close()
        await log.append(topic, [record("while away")])
        again = await log.consumer(topic, "g", latest=True)
        assert values(await take(again, 1)) == ["while away"]
        await log.close()

    async def test_committed_positions_survive_a_restart_and_the_rest_comes_again(
        self, make_log: MakeLog, topic: str
    ) -> None:
        log = await make_log()
        await log.append(topic, [record(str(n)) for n in range(6)])
        consumer = await log.consumer(topic, "g")
        assert values(await take(consumer, 2)) == ["0", "1"]
        await consumer.commit(consumer.positions())
        assert values(await take(consumer, 2)) == ["2", "3"]
        await consumer.close()
        await log.close()
        log = await make_log()
        assert values(await take(await log.consumer(topic, "g"), 4)) == ["2", "3", "4", "5"]
        await log.close()

    async def test_groups_do_not_disturb_each_other(self, make_log: MakeLog, topic: str) -> None:
        log = await make_log()
        await log.append(topic, [record("a"), record("b")])
        one, two = await log.consumer(topic, "one"), await log.consumer(topic, "two")
        await take(one, 2)
        await one.commit(one.positions())
        assert values(await take(two, 2)) == ["a", "b"]
        await log.close()

    async def test_a_poll_without_records_ends_empty_after_its_wait(self, make_log: MakeLog, topic: str) -> None:
        log = await make_log()
        consumer = await log.consumer(topic, "g")
        start = asyncio.get_running_loop().time()
        assert list(await consumer.poll(max_wait_s=0.2)) == []
        assert asyncio.get_running_loop().time() - start >= 0.15
        await log.close()

    async def test_an_append_wakes_a_waiting_poll(self, make_log: MakeLog, topic: str) -> None:
        log = await make_log()
        consumer = await log.consumer(topic, "g")
        waiting = asyncio.create_task(take(consumer, 1, wait_s=30.0))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await log.append(topic, [record("now")])
        assert values(await asyncio.wait_for(waiting, 10)) == ["now"]
        await log.close()

    async def test_concurrent_appends_all_arrive_each_task_in_its_own_order(
        self, make_log: MakeLog, topic: str
    ) -> None:
        log = await make_log()

        async def produce(task: int) -> None:
            for n in range(20):
                await log.append(topic, [record(f"{task}.{n}", key=str(task))])

        await asyncio.gather(*(produce(task) for task in range(10)))
        got = values(await take(await log.consumer(topic, "g"), 200))
        assert len(got) == 200
        for task in range(10):
            assert [value for value in got if value.startswith(f"{task}.")] == [f"{task}.{n}" for n in range(20)]
        await log.close()

    async def test_seek_moves_the_next_poll_and_commits_nothing(self, make_log: MakeLog, topic: str) -> None:
        log = await make_log()
        await log.append(topic, [record(str(n)) for n in range(4)])
        consumer = await log.consumer(topic, "g")
        got = await take(consumer, 4)
        await consumer.seek({got[1].partition: got[1].offset})
        assert values(await take(consumer, 3)) == ["1", "2", "3"]
        assert values(await take(await log.consumer(topic, "g"), 4)) == ["0", "1", "2", "3"]
        await log.close()

    async def test_lag_and_end_offsets_count_what_is_there(self, make_log: MakeLog, topic: str) -> None:
        log = await make_log()
        consumer = await log.consumer(topic, "g")
        await log.append(topic, [record(str(n)) for n in range(5)])
        await take(consumer, 2)
        assert consumer.lag() == 3
        assert sum((await log.end_offsets(topic)).values()) == 5
        await log.close()

    async def test_latest_by_key_has_the_newest_of_each_key_and_no_empty_ones(self, make_log: MakeLog) -> None:
        log = await make_log()
        topic = self.compacted_topic
        await log.append(topic, [record("a1", key="a"), record("b1", key="b"), record("c1", key="c")])
        await log.append(topic, [record("a2", key="a"), record("", key="b")])
        assert values(await log.latest_by_key(topic)) == ["c1", "a2"]
        await log.close()
        log = await make_log()
        assert values(await log.latest_by_key(topic)) == ["c1", "a2"]
        await log.close()

    async def test_a_record_over_the_limit_is_rejected_and_nothing_of_its_batch_stays(
        self, make_log: MakeLog, topic: str
    ) -> None:
        log = await make_log()
        large = Record(key=b"", value=bytes(self.too_large_bytes), time_ns=1)
        with pytest.raises(Rejected):
            await log.append(topic, [record("before"), large])
        await log.append(topic, [record("after")])
        assert values(await take(await log.consumer(topic, "g"), 1)) == ["after"]
        await log.close()

    async def test_a_large_record_comes_back_whole(self, make_log: MakeLog, topic: str) -> None:
        log = await make_log()
        large = secrets.token_bytes(1024) * 5 * 1024
        await log.append(topic, [record("x"), Record(key=b"", value=large, time_ns=1), record("y")])
        await log.close()
        log = await make_log()
        got = await take(await log.consumer(topic, "g"), 3)
        assert [item.record.value for item in got] == [b"x", large, b"y"]
        await log.close()
