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
from headspring.streaming.engine.runner import StatefulLog
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


MakeStatefulLog = Callable[[], Awaitable[StatefulLog]]


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
        newest = await log.latest_by_key(topic)
        assert sorted(values(newest)) == ["a2", "c1"]
        assert newest == sorted(newest, key=lambda item: (item.partition, item.offset)), "in order, each partition"
        await log.close()
        log = await make_log()
        assert sorted(values(await log.latest_by_key(topic))) == ["a2", "c1"]
        await log.close()

    async def test_keys_are_in_one_partition_each_and_in_order_there(self, make_log: MakeLog, topic: str) -> None:
        log = await make_log()
        for n in range(10):
            await log.append(topic, [record(f"{key}.{n}", key=key) for key in "abcdefgh"])
        got = await take(await log.consumer(topic, "g"), 80)
        for key in "abcdefgh":
            of_key = [item for item in got if item.record.key == key.encode()]
            assert values(of_key) == [f"{key}.{n}" for n in range(10)]
            assert len({item.partition for item in of_key}) == 1
        for partition in {item.partition for item in got}:
            offsets = [item.offset for item in got if item.partition == partition]
            assert offsets == list(range(len(offsets)))
        await log.close()

    async def test_positions_cover_what_was_polled_and_a_commit_of_them_leaves_nothing(
        self, make_log: MakeLog, topic: str
    ) -> None:
        log = await make_log()
        await log.append(topic, [record(f"{n}", key=f"key {n}") for n in range(30)])
        consumer = await log.consumer(topic, "g")
        await take(consumer, 30)
        assert sum(consumer.positions().values()) == 30
        await consumer.commit(consumer.positions())
        await consumer.close()
        again = await log.consumer(topic, "g")
        assert list(await again.poll(max_wait_s=0.3)) == []
        assert again.lag() == 0
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
        await log.append(topic, [record("x"), Record(key=b"k", value=large, time_ns=1), record("y")])
        await log.close()
        log = await make_log()
        got = await take(await log.consumer(topic, "g"), 3)
        assert [item.record.value for item in got] == [b"x", large, b"y"]
        await log.close()


class StatefulLogContract:
    """What engines need beside `EventLogContract`: positions and state in one step."""

    large_bytes = 9 * 1024 * 1024
    """A snapshot that does not fit into one record of the log under test, or nearly so."""

    @pytest.fixture
    def make_log(self) -> MakeStatefulLog:
        raise NotImplementedError("the binding gives a fixture make_log")

    @pytest.fixture
    def topic(self) -> str:
        """A topic that no other test uses."""
        return f"contract-{secrets.token_hex(6)}"

    async def test_positions_and_state_survive_together(self, make_log: MakeStatefulLog, topic: str) -> None:
        log = await make_log()
        assert await log.load_state("g") == b""
        await log.append(topic, [record(str(n)) for n in range(4)])
        consumer = await log.consumer(topic, "g")
        got = await take(consumer, 4)
        for item in got[:3]:
            await log.commit_with_state("g", {topic: {item.partition: item.offset + 1}}, b"up to %d" % item.offset)
        await log.close()
        log = await make_log()
        assert await log.load_state("g") == b"up to 2"
        assert values(await take(await log.consumer(topic, "g"), 1)) == ["3"]
        assert await log.load_state("nobody") == b""
        await log.close()

    async def test_a_commit_without_state_keeps_the_snapshot(self, make_log: MakeStatefulLog, topic: str) -> None:
        log = await make_log()
        await log.append(topic, [record(str(n)) for n in range(3)])
        consumer = await log.consumer(topic, "g")
        got = await take(consumer, 3)
        await log.commit_with_state("g", {topic: {got[0].partition: got[0].offset + 1}}, b"state")
        await log.commit_with_state("g", {topic: {got[1].partition: got[1].offset + 1}})
        await consumer.commit({got[1].partition: got[1].offset + 1})
        await log.close()
        log = await make_log()
        assert await log.load_state("g") == b"state"
        assert values(await take(await log.consumer(topic, "g"), 1)) == ["2"]
        await log.close()

    async def test_state_can_be_committed_before_anything_was_read_and_be_emptied(
        self, make_log: MakeStatefulLog
    ) -> None:
        log = await make_log()
        await log.commit_with_state("g", {}, b"first")
        assert await log.load_state("g") == b"first"
        await log.commit_with_state("g", {}, b"")
        assert await log.load_state("g") == b""
        await log.close()

    async def test_large_and_small_states_take_turns(self, make_log: MakeStatefulLog) -> None:
        log = await make_log()
        for size in (self.large_bytes, 10, self.large_bytes // 2, 0, self.large_bytes):
            state = secrets.token_bytes(size)
            await log.commit_with_state("g", {}, state)
            assert await log.load_state("g") == state
        await log.close()
        log = await make_log()
        assert await log.load_state("g") == state
        await log.close()

    async def test_one_commit_covers_several_topics(self, make_log: MakeStatefulLog, topic: str) -> None:
        log = await make_log()
        for name in (f"{topic}-1", f"{topic}-2"):
            await log.append(name, [record("a"), record("b")])
        consumers = [await log.consumer(f"{topic}-{n}", "g") for n in (1, 2)]
        got = [await take(consumer, 2) for consumer in consumers]
        await log.commit_with_state(
            "g", {item.topic: {item.partition: item.offset} for item in (got[0][1], got[1][1])}, b"both"
        )
        await log.close()
        log = await make_log()
        for name in (f"{topic}-1", f"{topic}-2"):
            assert values(await take(await log.consumer(name, "g"), 1)) == ["b"]
        await log.close()
