"""VictoriaMetrics keeps the contract of the series store, and what the port says of servers."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from tests.servers.process import free_port
from tests.servers.victoria import Victoria, victoria

from headspring.knowledge.series import promql
from headspring.knowledge.series.duckdb_store import DuckDbSeriesStore
from headspring.knowledge.series.port import VISIBLE_WITHIN_S, SeriesData
from headspring.knowledge.series.victoria import VictoriaSeriesStore
from headspring.knowledge.series.victoria.client import VictoriaClient
from headspring.knowledge.series.victoria.reader import VictoriaReader
from headspring.knowledge.series.victoria.samples import EMPTY
from headspring.knowledge.testing import SeriesStoreContract
from headspring.knowledge.testing.series import START_NS, OpenSeriesStore, S, batch, series, where
from headspring.proto.errors import ConfigError, Unavailable

pytestmark = pytest.mark.real

_EVER = 2**62
_LONG = "100y"
"""The suite's samples are years old."""


def emptied(server: Victoria) -> None:
    with opened(server) as store:
        for tenant in store.tenants():
            store.delete_tenant(tenant)


@contextmanager
def opened(server: Victoria) -> Iterator[VictoriaSeriesStore]:
    store = VictoriaSeriesStore(server.url, user=server.USER if server.password else "", password=server.password)
    try:
        yield store
    finally:
        store.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victoria]:
    with victoria(tmp_path_factory.mktemp("victoria"), retention=_LONG) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victoria]:
    """As people run it who know nothing of us: few labels, duplicates merged by the server, a password."""
    flags = ("-maxLabelsPerTimeseries=30", "-dedup.minScrapeInterval=1ms")
    folder = tmp_path_factory.mktemp("guarded")
    with victoria(folder, retention=_LONG, password="correct-horse", flags=flags) as running:
        yield running


class TestVictoria(SeriesStoreContract):
    SERVER_RETENTION = True

    @pytest.fixture
    def open_store(self, server: Victoria) -> OpenSeriesStore:
        emptied(server)
        return lambda: VictoriaSeriesStore(server.url)


class TestVictoriaWithALotSetOtherwise(SeriesStoreContract):
    SERVER_RETENTION = True

    @pytest.fixture
    def open_store(self, guarded: Victoria) -> OpenSeriesStore:
        emptied(guarded)
        return lambda: VictoriaSeriesStore(guarded.url, user=guarded.USER, password=guarded.password)


class TestSeveralProcesses:
    """A second store shares nothing with the first but the server, as one in another process."""

    def test_what_one_wrote_another_reads_within_the_bound(self, server: Victoria) -> None:
        emptied(server)
        with opened(server) as writer, opened(server) as reader:
            assert reader.find("default", []) == []  # the server remembers that it found nothing

            def seen(count: int) -> Callable[[], bool]:
                return lambda: [one.value.size for one in self._all(reader)] == [count]

            writer.write(batch([(1, 0, 1.0)], new=[series(1, zone="a")]))
            writer.flush()
            assert waited_s(seen(1)) < VISIBLE_WITHIN_S
            for count in (2, 3):
                writer.write(batch([(1, count, 1.0)]))
                writer.flush()
                assert waited_s(seen(count)) < 3.0

    def test_a_writer_learns_from_the_server_what_a_series_is(self, server: Victoria) -> None:
        """A partition moves: its next owner has samples of series that were announced to the last one."""
        emptied(server)
        told = [series(one, zone=f"z{one}") for one in range(1200)]
        with opened(server) as first, opened(server) as second:
            first.write(batch([(one.series_id, 0, 1.0) for one in told], new=told))
            first.settle()
            second.write(batch([(one.series_id, 1, 2.0) for one in told]))
            found = second.select("default", where("zone", "z7"), start_ns=0, end_ns=_EVER)
            assert [one.value.tolist() for one in found] == [[1.0, 2.0]]
            assert len(second.find("default", [])) == 1200
            assert second.counters().get("headspring_series_undescribed_total", 0) == 0

    def test_two_that_write_the_same_leave_it_there_once(self, server: Victoria) -> None:
        emptied(server)
        with opened(server) as first, opened(server) as second:
            for store in (first, second, first):
                store.write(batch([(1, second_, float(second_)) for second_ in range(100)], new=[series(1)]))
                store.flush()
            (found,) = self._all(second)
            assert found.value.tolist() == [float(one) for one in range(100)]

    @staticmethod
    def _all(store: VictoriaSeriesStore) -> Sequence[SeriesData]:
        return store.select("default", [], start_ns=0, end_ns=_EVER)


class TestSameAnswers:
    """Queries and evidence do not depend on where the samples lie."""

    QUERIES = (
        "load", 'load{zone!="z1"}', "rate(load[5m])", "sum by (zone) (rate(load[2m]))", "avg_over_time(load[90s])",
        "max(load) by (zone)", "quantile_over_time(0.9, load[5m])", "load - load offset 1m", "histogram_of > 3",
    )  # fmt: skip

    def test_a_query_has_the_same_answer_on_both_backends(self, server: Victoria) -> None:
        emptied(server)
        random = np.random.default_rng(3)
        embedded = DuckDbSeriesStore(None)
        with opened(server) as ours:
            for number in range(20):
                seconds = np.flatnonzero(random.random(1800) < 0.1)
                values = np.where(random.random(seconds.size) < 0.02, np.nan, random.gamma(2.0, 50.0, seconds.size))
                told = replace(
                    series(number + 1, "load" if number % 4 else "histogram.of", zone=f"z{number % 3}"),
                    labels={"zone": f"z{number % 3}", "k8s.pod": f"p{number}"},
                )
                one = replace(
                    batch([(number + 1, 0, 0.0)] * seconds.size, new=[told]),
                    time_ns=START_NS + seconds * S + random.integers(0, S, seconds.size), value=values,
                )  # fmt: skip
                embedded.write(one)
                ours.write(one)
            for query in self.QUERIES:
                left, right = (
                    promql.evaluate_range(
                        query, store=store, tenant="default", start_ns=START_NS, end_ns=START_NS + 1800 * S,
                        step_ns=15 * S,
                    )
                    for store in (embedded, ours)
                )  # fmt: skip
                assert [labels for labels, _ in left] == [labels for labels, _ in right]
                assert sum(len(points) for _, points in left) > 50, query
                for (_, here), (_, there) in zip(left, right, strict=True):
                    np.testing.assert_allclose(np.array(here), np.array(there), rtol=1e-9)
        embedded.close()


def waited_s(condition: Callable[[], bool], *, at_most_s: float = 30.0) -> float:
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > at_most_s:
            raise AssertionError(f"not so after {at_most_s:.0f} s")
        time.sleep(0.05)
    return time.monotonic() - started


class TestAServerThatFails:
    @pytest.fixture
    def own(self, tmp_path: Path) -> Iterator[Victoria]:
        with victoria(tmp_path, retention=_LONG) as running:
            yield running

    def test_a_killed_server_loses_nothing_that_it_had_taken(self, own: Victoria) -> None:
        with opened(own) as store, opened(own) as other:
            store.register([series(1), series(2)])
            time.sleep(1.1)  # a server tells the second in which it was started, and on a quick machine that is all
            for second in range(200):
                store.write(batch([(1, second, float(second)), (2, second, math.nan)]))
                store.flush()
            own.kill9()
            own.start()
            left = other.select("default", [], start_ns=0, end_ns=_EVER)
            assert sum(one.value.size for one in left) < 400  # it had not all of it on disk yet
            store.write(batch([(1, 200, 200.0)]))
            time.sleep(5.1)  # as often as the server is looked at
            store.flush()
            one, two = store.select("default", [], start_ns=0, end_ns=_EVER)
            assert one.value.tolist() == [float(second) for second in range(201)]
            assert two.value.size == 200
            assert store.counters()["headspring_series_samples_resent_total"] == 400

    def test_what_is_on_disk_is_not_kept_to_be_sent_again(self, own: Victoria) -> None:
        now_s = [1000.0]
        store = VictoriaSeriesStore(own.url, monotonic=lambda: now_s[0])
        for second in range(5):
            store.write(batch([(1, second, 1.0)], new=[series(1)]))
            store.flush()
            now_s[0] += 6.0
        time.sleep(1.1)  # a server tells the second in which it was started
        own.kill9()
        own.start()
        now_s[0] += 6.0
        store.flush()
        assert store.counters()["headspring_series_samples_resent_total"] == 2  # of the last ten seconds before
        store.close()

    def test_a_stopped_server_costs_time_and_no_sample(self, own: Victoria) -> None:
        with opened(own) as store:
            store.write(batch([(1, 0, 0.0)], new=[series(1)]))
            store.flush()
            own.stop()
            for _ in range(3):  # as a stage does: the same records until they are stored
                store.write(batch([(1, 1, 1.0)]))
                with pytest.raises(Unavailable) as refused:
                    store.flush()
                assert "\n" not in str(refused.value)
            with pytest.raises(Unavailable):
                store.find("default", [])
            with pytest.raises(Unavailable):
                store.ping()
            own.start()
            store.ping()
            store.write(batch([(1, 1, 1.0)]))
            store.flush()
            (found,) = store.select("default", [], start_ns=0, end_ns=_EVER)
            assert found.value.tolist() == [0.0, 1.0]

    def test_a_server_that_hangs_is_unavailable_after_the_time_allowed(self, own: Victoria) -> None:
        store = VictoriaSeriesStore(own.url, timeout_s=0.5)
        os.kill(own.pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            with pytest.raises(Unavailable, match=r"within 0\.5 s"):
                store.select("default", [], start_ns=0, end_ns=_EVER)
            assert time.monotonic() - started < 3.0
        finally:
            os.kill(own.pid, signal.SIGCONT)
        assert store.select("default", [], start_ns=0, end_ns=_EVER) == []
        store.close()

    def test_a_password_changed_at_the_server_makes_samples_wait(self, tmp_path: Path) -> None:
        with victoria(tmp_path, retention=_LONG, password="first-secret") as own, opened(own) as store:
            store.write(batch([(1, 0, 1.0)], new=[series(1)]))
            own.stop()
            own.password = "second-secret"
            own.start()
            with pytest.raises(Unavailable, match="user or password") as refused:
                store.flush()
            assert "secret" not in str(refused.value)
            own.stop()
            own.password = "first-secret"
            own.start()
            store.flush()
            assert len(store.find("default", [])) == 1

    def test_an_answer_that_breaks_off_is_no_answer(self) -> None:
        """A server that dies while it answers must not look like one that has less."""
        line = b'{"metric":{"__name__":"a","__tenant__":"default","__series__":"1"},"values":[1,2],"timestamps":[1'
        with answering({"/api/v1/export": (200, line)}) as url, pytest.raises(Unavailable):
            VictoriaReader(VictoriaClient(url), kept_s=60).select(
                "default", [], start_ms=0, end_ms=_EVER, limit=10, own=EMPTY
            )


class TestAtStart:
    def test_nothing_there(self) -> None:
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:\d+ is away: Connection refused"):
            VictoriaSeriesStore(f"http://127.0.0.1:{free_port()}")

    def test_nothing_there_yet(self, tmp_path: Path) -> None:
        with victoria(tmp_path, retention=_LONG) as own:
            own.stop()
            store = VictoriaSeriesStore(own.url, must_answer=False)
            assert len(store.notes) == 1
            store.write(batch([(1, 0, 1.0)], new=[series(1)]))
            with pytest.raises(Unavailable):
                store.find("default", [])
            own.start()
            assert store.find("default", []) == [series(1)]
            store.close()

    def test_no_such_host(self) -> None:
        with pytest.raises(Unavailable, match=r"no-such-host\.invalid"):
            VictoriaSeriesStore("http://no-such-host.invalid:8428")

    @pytest.mark.parametrize(
        "url", ["", "victoria:8428", "http://", "http://h:0", "http://h:99999", "ftp://h", "http://h/?a=b"]
    )
    def test_no_address(self, url: str) -> None:
        with pytest.raises(ConfigError, match="victoria_url"):
            VictoriaSeriesStore(url)

    def test_a_password_in_the_address_is_not_repeated(self) -> None:
        with pytest.raises(ConfigError, match="victoria_user") as refused:
            VictoriaSeriesStore("http://me:hush@127.0.0.1:8428")
        assert "hush" not in str(refused.value)

    @pytest.mark.parametrize("password", ["", "wrong-one"])
    def test_a_wrong_password(self, guarded: Victoria, password: str) -> None:
        with pytest.raises(ConfigError, match="victoria_user and victoria_password") as refused:
            VictoriaSeriesStore(guarded.url, user="headspring" if password else "", password=password)
        assert "wrong-one" not in str(refused.value)
        assert "\n" not in str(refused.value)

    def test_something_else_answers(self) -> None:
        with answering({}) as url, pytest.raises(ConfigError, match="is not VictoriaMetrics"):
            VictoriaSeriesStore(url)

    def test_an_old_server(self) -> None:
        metrics = b'vm_app_version{version="victoria-metrics-20210201-tags-v1.53.1-0-g1", short_version="v1.53.1"} 1\n'
        answers = {"/api/v1/export": (200, b""), "/metrics": (200, metrics)}
        with answering(answers) as url, pytest.raises(ConfigError, match=r"1\.53\.1; wanted 1\.79 or newer"):
            VictoriaSeriesStore(url)

    def test_a_server_that_forgets_sooner_than_wanted(self, tmp_path: Path) -> None:
        with victoria(tmp_path, retention="7d") as own:
            store = VictoriaSeriesStore(own.url, retention=timedelta(days=15))
            assert [note for note in store.notes if "keeps samples 7 days, wanted 15 days" in note] != []
            store.close()
            store = VictoriaSeriesStore(own.url, retention=timedelta(days=7))
            assert store.notes == ()
            store.close()

    def test_a_server_that_keeps_its_own_metrics_and_flushes_to_itself(self, tmp_path: Path) -> None:
        flags = ("-metricsAuthKey=x", "-forceFlushAuthKey=y", "-search.latencyOffset=0s")
        with victoria(tmp_path, retention=_LONG, flags=flags) as own, opened(own) as store:
            assert len(store.notes) == 3  # labels are not known to be more than the default either
            store.write(batch([(1, 0, 1.0)], new=[series(1)]))
            store.flush()
            assert waited_s(lambda: store.find("default", []) != []) < VISIBLE_WITHIN_S
            own.kill9()
            with pytest.raises(Unavailable):
                store.flush()
            own.start()
            store.flush()
            assert waited_s(lambda: store.find("default", []) != []) < VISIBLE_WITHIN_S


@contextmanager
def answering(answers: dict[str, tuple[int, bytes]]) -> Iterator[str]:
    """A web server that is something else: these answers by path, 404 for the rest."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            status, body = answers.get(self.path.partition("?")[0], (404, b"no such page"))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
