"""Redis keeps the coordination contract, between processes too, and what it says of a backend that is away."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.contract.lock_workers import hold_for_ever, spend, work_under_lock
from tests.servers.process import free_port
from tests.servers.redis import Redis, redis

from headspring.knowledge.coordination.redis import (
    RedisCache,
    RedisCoolDowns,
    RedisLocks,
    RedisRateLimiter,
    RedisServer,
)
from headspring.knowledge.testing.coordination import Coordination, CoordinationContract
from headspring.proto.errors import ConfigError, Conflict, Unavailable

pytestmark = pytest.mark.real

_SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with redis(tmp_path_factory.mktemp("redis"), password="correct-horse") as running:
        yield running


@pytest.fixture
def shared(server: Redis) -> Iterator[RedisServer]:
    server.command("flushall")
    connected = RedisServer(server.url, password=server.password, timeout_s=5.0)
    yield connected
    connected.close()


class TestRedis(CoordinationContract):
    @pytest.fixture
    def backend(self, shared: RedisServer) -> Coordination:
        return Coordination(
            cache=RedisCache(shared), locks=RedisLocks(shared), limiter=RedisRateLimiter(shared),
            cool_downs=RedisCoolDowns(shared), advance=time.sleep, monotonic_s=time.monotonic,
        )  # fmt: skip

    def test_installations_that_share_a_server_do_not_meet(self, server: Redis, shared: RedisServer) -> None:
        other = RedisServer(server.url, password=server.password, prefix="other", timeout_s=5.0)
        assert RedisLocks(shared).acquire("a", ttl_s=60.0) is not None
        assert RedisLocks(other).acquire("a", ttl_s=60.0) is not None
        RedisCache(shared).put_many({"a": b"1"}, ttl_s=60.0)
        assert RedisCache(other).get_many(["a"]) == {}
        other.close()

    def test_nothing_of_ours_stays_for_ever(self, server: Redis, backend: Coordination) -> None:
        backend.cache.put_many({"a": b"1"}, ttl_s=60.0)
        assert backend.locks.acquire("a", ttl_s=60.0) is not None
        backend.limiter.allow("a", limit=1, window_s=60.0)
        backend.cool_downs.begin("a", duration_s=60.0)
        keys = server.command("--raw", "keys", "*").split()
        assert len(keys) == 5
        assert all(key.startswith("headspring:") and int(server.command("pttl", key)) > 0 for key in keys)

    def test_scripts_that_the_server_forgot_are_sent_again(self, server: Redis, backend: Coordination) -> None:
        assert backend.cool_downs.begin("a", duration_s=60.0)
        server.command("script", "flush")
        assert not backend.cool_downs.begin("a", duration_s=60.0)


class TestSeveralProcesses:
    def test_a_lock_lets_one_in_and_tokens_grow(self, server: Redis, shared: RedisServer, tmp_path: Path) -> None:
        journal = tmp_path / "journal"
        arguments = (server.url, server.password, str(tmp_path / "guarded"), str(journal), 60)
        run_all([_SPAWN.Process(target=work_under_lock, args=arguments) for _ in range(4)])
        tokens = [int(line) for line in journal.read_text().splitlines()]
        assert len(tokens) == 240
        assert tokens == sorted(set(tokens))

    def test_the_lock_of_one_that_was_killed_is_free_after_its_lease(
        self, server: Redis, shared: RedisServer, tmp_path: Path
    ) -> None:
        told, locks = tmp_path / "told", RedisLocks(shared)
        holder = _SPAWN.Process(target=hold_for_ever, args=(server.url, server.password, str(told)))
        holder.start()
        wait_for(lambda: told.exists() and told.read_text() != "")
        time.sleep(2.0)  # longer than the lease: it is renewed
        assert locks.acquire("held", ttl_s=1.0) is None
        assert holder.pid is not None
        os.kill(holder.pid, signal.SIGKILL)
        holder.join()
        begun = time.monotonic()
        wait_for(
            lambda: (lease := locks.acquire("held", ttl_s=60.0)) is not None and lease.token > int(told.read_text())
        )
        assert time.monotonic() - begun < 4.0

    def test_limits_are_one_budget(self, server: Redis, shared: RedisServer, tmp_path: Path) -> None:
        told = [tmp_path / str(number) for number in range(3)]
        run_all([_SPAWN.Process(target=spend, args=(server.url, server.password, str(one), 4.0)) for one in told])
        began, ended, allowed = zip(*(map(float, one.read_text().split()) for one in told), strict=True)
        # Three budgets of their own would have let through three times as much.
        assert sum(allowed) <= 40 * (max(ended) - min(began) + 1)
        assert sum(allowed) >= 80  # and what was used came back


class TestAServerThatFails:
    @pytest.fixture
    def own(self, tmp_path: Path) -> Iterator[Redis]:
        with redis(tmp_path, password="") as running:
            yield running

    def test_tokens_grow_also_when_the_server_lost_its_data(self, own: Redis) -> None:
        clock = [0.0]
        locks = RedisLocks(RedisServer(own.url, monotonic=lambda: clock[0]))
        first = locks.acquire("a", ttl_s=60.0)
        assert first is not None
        own.kill9()
        with pytest.raises(Unavailable, match="is away") as refused:
            locks.acquire("a", ttl_s=60.0)
        assert "\n" not in str(refused.value)
        own.start()
        clock[0] += 2.0
        second = locks.acquire("a", ttl_s=60.0)  # the lock was lost: this is what tokens are for
        assert second is not None
        assert second.token > first.token
        with pytest.raises(Conflict):
            locks.renew(first, ttl_s=60.0)

    def test_each_kind_degrades_as_it_says(self, own: Redis, caplog: pytest.LogCaptureFixture) -> None:
        clock = [0.0]
        connected = RedisServer(own.url, monotonic=lambda: clock[0])
        cache, locks, cool_downs = RedisCache(connected), RedisLocks(connected), RedisCoolDowns(connected)
        limiter = RedisRateLimiter(connected)
        cache.put_many({"a": b"1"}, ttl_s=60.0)
        lease = locks.acquire("held", ttl_s=60.0)
        assert lease is not None
        assert limiter.allow("a", limit=2, window_s=60.0).remaining == 1
        own.stop()
        with caplog.at_level(logging.WARNING):
            assert cache.get_many(["a"]) == {}
            cache.put_many({"b": b"2"}, ttl_s=60.0)
            assert cache.missed == 2
            for call in (
                lambda: locks.acquire("a", ttl_s=1.0), lambda: locks.renew(lease, ttl_s=1.0),
                lambda: locks.release(lease), lambda: cool_downs.begin("a", duration_s=1.0),
                lambda: cool_downs.left_s("a"), connected.ping,
            ):  # fmt: skip
                with pytest.raises(Unavailable):
                    call()
            answers = [limiter.allow("a", limit=2, window_s=60.0).allowed for _ in range(3)]
        assert answers == [True, True, False]  # of its own count
        assert (limiter.degraded, limiter.degraded_calls) == (True, 3)
        assert len(caplog.records) == 2  # once for the cache, once for the limits, however many calls
        own.start()
        clock[0] += 2.0
        assert limiter.allow("a", limit=2, window_s=60.0).allowed
        assert not limiter.degraded
        cache.put_many({"a": b"3"}, ttl_s=60.0)
        assert cache.get_many(["a"]) == {"a": b"3"}
        assert cool_downs.begin("a", duration_s=1.0)

    def test_a_server_that_hangs_costs_its_time_once(self, own: Redis) -> None:
        limiter = RedisRateLimiter(RedisServer(own.url, timeout_s=0.3))
        os.kill(own.pid, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            for _ in range(20):
                limiter.allow("a", limit=100, window_s=60.0)
            assert time.monotonic() - begun < 3.0
            assert limiter.degraded_calls == 20
        finally:
            os.kill(own.pid, signal.SIGCONT)

    def test_a_server_that_was_started_anew_is_used_at_once(self, own: Redis) -> None:
        """Connections that were kept are dead then; nobody needs to hear of it."""
        locks = RedisLocks(own.url)
        assert locks.acquire("a", ttl_s=60.0) is not None
        own.kill9()
        own.start()
        assert locks.acquire("a", ttl_s=60.0) is not None
        locks.close()


class TestAtStart:
    def test_nothing_there(self) -> None:
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:\d+ is away"):
            RedisCache(f"redis://127.0.0.1:{free_port()}")

    def test_nothing_there_yet(self, tmp_path: Path) -> None:
        with redis(tmp_path, password="") as own:
            own.stop()
            clock = [0.0]
            connected = RedisServer(own.url, must_answer=False, monotonic=lambda: clock[0])
            cool_downs = RedisCoolDowns(connected)
            with pytest.raises(Unavailable):
                cool_downs.begin("a", duration_s=60.0)
            own.start()
            clock[0] += 2.0
            assert cool_downs.begin("a", duration_s=60.0)
            connected.close()

    @pytest.mark.parametrize(
        "url", ["", "localhost:6379", "redis://", "redis://h:0", "redis://h/x", "http://h", "redis://h:99999"]
    )
    def test_no_address(self, url: str) -> None:
        with pytest.raises(ConfigError, match="redis_url"):
            RedisServer(url)

    def test_a_password_in_the_address_is_not_repeated(self) -> None:
        with pytest.raises(ConfigError, match="redis_password") as refused:
            RedisServer("redis://:hush@127.0.0.1:6379")
        assert "hush" not in str(refused.value)

    @pytest.mark.parametrize("password", ["", "wrong-one"])
    def test_a_wrong_password(self, server: Redis, password: str) -> None:
        with pytest.raises(ConfigError, match="correct redis_password") as refused:
            RedisServer(server.url, password=password, timeout_s=5.0)
        assert "wrong-one" not in str(refused.value)
        assert "\n" not in str(refused.value)

    def test_a_database_that_is_not_there(self, server: Redis) -> None:
        with pytest.raises(ConfigError, match="correct redis_url"):
            RedisServer(server.url.replace("/0", "/99"), password=server.password, timeout_s=5.0)

    def test_something_else_answers(self) -> None:
        with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url, pytest.raises(ConfigError, match="is not Redis"):
            RedisServer(url)

    def test_an_old_server(self) -> None:
        text = b"# Server\r\nredis_version:5.0.14\r\n"
        told = pytest.raises(ConfigError, match=r"is version 5\.0\.14; wanted 7\.0 or newer")
        with answering(b"$%d\r\n%s\r\n" % (len(text), text)) as url, told:
            RedisServer(url)

    def test_a_replica(self, tmp_path: Path) -> None:
        flags = ("--replicaof", "127.0.0.1", str(free_port()))
        with redis(tmp_path, password="", flags=flags) as replica, pytest.raises(ConfigError, match="is a replica"):
            RedisServer(replica.url)

    def test_a_server_that_may_throw_out_locks(self, tmp_path: Path) -> None:
        with redis(tmp_path, password="", flags=("--maxmemory-policy", "allkeys-lru")) as own:
            connected = RedisServer(own.url)
            assert "allkeys-lru" in connected.notes[0]
            connected.close()


def run_all(processes: list[multiprocessing.process.BaseProcess]) -> None:
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)


def wait_for(condition: Callable[[], bool], *, at_most_s: float = 30.0) -> None:
    end_s = time.monotonic() + at_most_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)


@contextmanager
def answering(info: bytes) -> Iterator[str]:
    """A server that answers `INFO` with this and everything else with OK."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while received := connection.recv(65536):
                    count = received.count(b"*")
                    for number in range(count):
                        command = received.split(b"*")[number + 1].upper()
                        connection.sendall(info if b"INFO\r" in command and b"CLIENT" not in command else b"+OK\r\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5.0)
