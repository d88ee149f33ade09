"""The embedded log under trouble: full disks, failing syncs, kill -9, damage, retention, compaction."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from headspring.proto.clock import NS_PER_S, ManualClock, SystemClock
from headspring.proto.errors import ConfigError, Rejected, Unavailable
from headspring.streaming.log.port import Record
from headspring.streaming.log.segments import SegmentLog
from headspring.streaming.testing import record, take, values

HOUR_S = 3600


async def open_log(path: Path, *, segment_bytes: int = 1 << 26) -> SegmentLog:
    return await SegmentLog.open(path, clock=SystemClock(), segment_bytes=segment_bytes)


async def everything(log: SegmentLog, topic: str) -> list[str]:
    count = (await log.end_offsets(topic))[0]
    return values(await take(await log.consumer(topic, "reader"), count, wait_s=0.0))


@pytest.fixture
def file_limit() -> Iterator[list[int]]:
    """Sets the largest size of a file this process may write; the kernel then fails writes half-way, for real."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield [soft, hard]
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, previous)


async def test_a_write_without_room_is_refused_taken_back_and_resumes_by_itself(
    tmp_path: Path, file_limit: list[int]
) -> None:
    log = await open_log(tmp_path)
    await log.append("t", [record("kept")])
    resource.setrlimit(resource.RLIMIT_FSIZE, (32 * 1024, file_limit[1]))
    with pytest.raises(Unavailable, match="no room to write topic t"):
        await log.append("t", [record("x" * 100_000)])
    await log.append("t", [record("small fits")])
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit[0], file_limit[1]))
    await log.append("t", [record("y" * 100_000)])
    assert log.stats().write_errors == 1
    expected = ["kept", "small fits", "y" * 100_000]
    assert await everything(log, "t") == expected
    await log.close()
    log = await open_log(tmp_path)
    assert await everything(log, "t") == expected
    assert log.stats().torn_bytes == 0
    await log.close()


async def test_a_failed_sync_acknowledges_nothing_and_the_records_do_not_show_up_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await open_log(tmp_path)
    await log.append("t", [record("kept")])

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        results = await asyncio.gather(
            *(log.append("t", [record(f"lost {n}")]) for n in range(5)), return_exceptions=True
        )
    assert all(isinstance(result, Unavailable) for result in results)
    await log.append("t", [record("after")])
    assert await everything(log, "t") == ["kept", "after"]
    await log.close()
    log = await open_log(tmp_path)
    assert await everything(log, "t") == ["kept", "after"]
    await log.close()


async def test_refused_records_do_not_come_back_with_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = await open_log(tmp_path)
    await log.append("t", [record("kept")])

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(Unavailable):
            await log.append("t", [record("refused")])
    await log.close()
    log = await open_log(tmp_path)
    assert await everything(log, "t") == ["kept"]
    await log.close()


async def test_one_topic_in_trouble_does_not_stop_the_others(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    await log.append("good", [record("1")])
    (tmp_path / "topics" / "bad").write_text("a file where the topic's folder should be")
    with pytest.raises(Unavailable):
        await log.append("bad", [record("1")])
    await log.append("good", [record("2")])
    assert await everything(log, "good") == ["1", "2"]
    await log.close()


async def test_a_record_that_cannot_be_written_is_rejected_alone(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    bad = Record(key=b"", value=b"x", time_ns=2**63)
    results = await asyncio.gather(
        *(log.append("t", [bad if n == 3 else record(str(n))]) for n in range(6)), return_exceptions=True
    )
    assert [type(result) for result in results if result is not None] == [Rejected]
    assert await everything(log, "t") == ["0", "1", "2", "4", "5"]
    await log.close()


async def test_a_disk_that_cannot_keep_up_is_answered_with_unavailable_not_with_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await open_log(tmp_path)
    real, release = os.fdatasync, threading.Event()

    def slow(fd: int) -> None:
        release.wait(10)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    monkeypatch.setattr("headspring.streaming.log.segments._MAX_PENDING_BYTES", 10_000)
    accepted = [log.append_threadsafe("t", [record("x" * 2000)]) for _ in range(4)]
    with pytest.raises(Unavailable, match="too slow"):
        await log.append("t", [record("x" * 2000)])
    release.set()
    for future in accepted:
        await asyncio.wrap_future(future)
    await log.append("t", [record("x" * 2000)])
    assert len(await everything(log, "t")) == 5
    assert log.stats().pending_bytes == 0
    await log.close()


async def test_concurrent_appends_share_syncs(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    await asyncio.gather(*(log.append("t", [record(str(n))]) for n in range(500)))
    assert log.stats().records_written == 500
    assert log.stats().fsyncs < 50
    await log.close()


async def test_worker_threads_append_and_pollers_see_it(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    waiting = asyncio.create_task(take(await log.consumer("t", "g"), 100))

    def work(name: int) -> None:
        for n in range(25):
            log.append_threadsafe("t", [record(f"{name}.{n}")]).result(timeout=10)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    assert len(await asyncio.wait_for(waiting, 20)) == 100
    for thread in threads:
        thread.join()
    await log.close()


_CHILD = """
import asyncio, sys
from pathlib import Path
from headspring.proto.clock import SystemClock
from headspring.streaming.log.port import Record
from headspring.streaming.log.segments import SegmentLog

async def main():
    log = await SegmentLog.open(Path(sys.argv[1]), clock=SystemClock(), segment_bytes=20_000)
    async def produce(task):
        n = 0
        while True:
            value = f"{task}.{n}".encode()
            await log.append("t", [Record(key=b"k", value=value + b" " * 100, time_ns=1)])
            sys.stdout.buffer.write(value + b"\\n")
            sys.stdout.buffer.flush()
            n += 1
    await asyncio.gather(*(produce(task) for task in range(8)))

asyncio.run(main())
"""


async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    acked: list[str] = []
    for _ in range(2):
        child = subprocess.Popen(  # noqa: ASYNC220 — nothing else runs in this loop
            [sys.executable, "-c", _CHILD, str(tmp_path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert child.stdout is not None
        for seen, line in enumerate(child.stdout):
            acked.append(line.decode().strip())
            if seen == 300:
                child.send_signal(signal.SIGKILL)
        child.stdout.close()
        child.wait()
    log = await open_log(tmp_path)
    stored = [value.strip() for value in await everything(log, "t")]
    assert len(acked) >= 600
    for value in set(acked):
        assert stored.count(value) >= acked.count(value)
    await log.close()


async def test_a_damaged_frame_in_the_middle_costs_only_itself(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    for n in range(10):
        await log.append("t", [record(f"value-{n}")])
    await log.close()
    path = next((tmp_path / "topics" / "t").iterdir())
    data = bytearray(path.read_bytes())
    data[data.index(b"value-4")] ^= 0xFF
    path.write_bytes(data)
    log = await open_log(tmp_path)
    assert await everything(log, "t") == [f"value-{n}" for n in range(10) if n != 4]
    assert log.stats().damaged_frames >= 1
    await log.append("t", [record("more")])
    assert (await log.end_offsets("t"))[0] == 11
    await log.close()


async def test_a_folder_open_elsewhere_is_refused(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    with pytest.raises(ConfigError, match="another process"):
        await open_log(tmp_path)
    await log.close()
    await (await open_log(tmp_path)).close()


async def test_a_closed_log_says_so(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    consumer = await log.consumer("t", "g")
    waiting = asyncio.create_task(consumer.poll(max_wait_s=30))
    await asyncio.sleep(0.02)
    await log.close()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(waiting, 5)
    with pytest.raises(Unavailable):
        await log.append("t", [record("x")])
    await log.close()


@pytest.mark.parametrize("name", ["", "../up", "Upper", "a/b", "x" * 300])
async def test_a_topic_name_that_could_leave_the_folder_is_rejected(tmp_path: Path, name: str) -> None:
    log = await open_log(tmp_path)
    with pytest.raises(Rejected, match="topic name"):
        await log.append(name, [record("x")])
    await log.close()


async def test_retention_unlinks_old_segments_and_keeps_counting_offsets(tmp_path: Path) -> None:
    clock = ManualClock(start_ns=1_000_000 * NS_PER_S)
    log = await SegmentLog.open(tmp_path, clock=clock, segment_bytes=1)
    for n in range(4):  # one segment each; features are kept for an hour
        await log.append("features", [record(str(n), time_ns=clock.now_ns())])
        clock.advance(HOUR_S / 2)
    await log.maintain()
    assert await everything(log, "features") == ["2", "3"]
    clock.advance(10 * HOUR_S)
    await log.maintain()
    assert len(list((tmp_path / "topics" / "features").iterdir())) == 1
    await log.close()
    log = await SegmentLog.open(tmp_path, clock=clock, segment_bytes=1)
    await log.append("features", [record("new", time_ns=clock.now_ns())])
    got = await take(await log.consumer("features", "other"), 1)
    assert [(item.offset, item.record.value) for item in got] == [(4, b"new")]
    await log.close()


async def test_a_topic_over_its_bound_loses_its_oldest_files_only(tmp_path: Path) -> None:
    log = await SegmentLog.open(tmp_path, clock=SystemClock(), segment_bytes=1, max_topic_bytes=2500)
    for n in range(10):
        await log.append("t", [record(str(n) + "." * 1000, time_ns=SystemClock().now_ns())])
    await log.maintain()
    assert [value[0] for value in await everything(log, "t")] == ["8", "9"]
    await log.close()


async def test_one_poll_returns_a_bounded_number_of_bytes(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    large = Record(key=b"", value=bytes(20 * 1024 * 1024), time_ns=1)
    await log.append("t", [large, large])
    consumer = await log.consumer("t", "g")
    assert len(await consumer.poll()) == 1
    assert len(await consumer.poll()) == 1
    await log.close()


async def test_a_reader_behind_retention_goes_on_at_the_oldest_record(tmp_path: Path) -> None:
    clock = ManualClock(start_ns=1_000_000 * NS_PER_S)
    log = await SegmentLog.open(tmp_path, clock=clock, segment_bytes=1)
    await log.append("features", [record("old", time_ns=clock.now_ns())])
    await log.close()
    log = await SegmentLog.open(tmp_path, clock=clock, segment_bytes=1)  # nothing of it is in memory any more
    slow = await log.consumer("features", "slow")
    clock.advance(5 * HOUR_S)
    await log.append("features", [record("new", time_ns=clock.now_ns())])
    await log.maintain()
    assert values(await take(slow, 1)) == ["new"]
    await log.close()


async def test_compaction_keeps_the_newest_of_each_key_and_offsets_and_frees_the_disk(tmp_path: Path) -> None:
    clock = ManualClock(start_ns=1_000_000 * NS_PER_S)
    log = await SegmentLog.open(tmp_path, clock=clock)
    for round_number in range(20):
        await log.append(
            "incidents",
            [
                Record(key=b"%d" % key, value=b"%d" % round_number + b"." * 10_000, time_ns=clock.now_ns())
                for key in range(10)
            ],
        )
    await log.append("incidents", [Record(key=b"3", value=b"", time_ns=clock.now_ns())])
    before = log.stats().size_bytes
    await log.maintain()
    assert log.stats().size_bytes < before / 10
    clock.advance(48 * HOUR_S)
    await log.append("incidents", [Record(key=b"x", value=b"later", time_ns=clock.now_ns())])
    latest = await log.latest_by_key("incidents")
    assert [item.record.key for item in latest] == [b"0", b"1", b"2", b"4", b"5", b"6", b"7", b"8", b"9", b"x"]
    assert latest[0].offset == 190
    assert latest[-1].offset == 201
    await log.close()
    log = await SegmentLog.open(tmp_path, clock=clock)
    assert [item.offset for item in await log.latest_by_key("incidents")] == [item.offset for item in latest]
    consumer = await log.consumer("incidents", "new")
    got = await take(consumer, 12, wait_s=0.0)
    assert [item.record.key for item in got if item.record.value] == [item.record.key for item in latest]
    assert consumer.lag() == 0
    await log.close()


async def test_a_crash_between_a_compactions_rename_and_its_unlinks_leaves_one_truth(tmp_path: Path) -> None:
    clock = ManualClock(start_ns=1_000_000 * NS_PER_S)
    log = await SegmentLog.open(tmp_path, clock=clock, segment_bytes=1)
    for n in range(300):
        await log.append("incidents", [Record(key=b"k", value=b"%d" % n + b"." * 10_000, time_ns=clock.now_ns())])
    folder = tmp_path / "topics" / "incidents"
    saved = {path.name: path.read_bytes() for path in folder.iterdir()}
    await log.maintain()
    await log.append("incidents", [Record(key=b"other", value=b"1", time_ns=clock.now_ns())])
    await log.close()
    for name, data in saved.items():
        (folder / name).write_bytes(data)
    (folder / "00000000000000000000-00000000000000000009.tmp").write_bytes(b"half")
    log = await SegmentLog.open(tmp_path, clock=clock, segment_bytes=1)
    assert [item.offset for item in await log.latest_by_key("incidents")] == [299, 300]
    assert (await log.end_offsets("incidents"))[0] == 301
    await log.close()


async def test_positions_and_state_change_together_and_survive(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    await log.append("t", [record(str(n)) for n in range(9)])
    await log.commit_with_state("g", {"t": {0: 4}}, b"\x00state" * 1000)
    await log.commit_with_state("g", {"t": {0: 5}})
    await log.close()
    log = await open_log(tmp_path)
    assert await log.load_state("g") == b"\x00state" * 1000
    assert await log.load_state("nobody") == b""
    assert values(await take(await log.consumer("t", "g"), 4)) == ["5", "6", "7", "8"]
    await log.close()


async def test_old_records_are_read_from_disk_in_order_while_new_ones_come(tmp_path: Path) -> None:
    log = await open_log(tmp_path, segment_bytes=50_000)
    await log.append("t", [record(f"{n:05d}" + "." * 100) for n in range(3000)])
    await log.close()
    log = await open_log(tmp_path, segment_bytes=50_000)
    consumer = await log.consumer("t", "g")
    first = await take(consumer, 100)
    await log.append("t", [record(f"{n:05d}" + "." * 100) for n in range(3000, 3100)])
    rest = await take(consumer, 3000, wait_s=1.0)
    assert [value[:5] for value in values(first + rest)] == [f"{n:05d}" for n in range(3100)]
    await log.close()
