"""The series store's contract."""

# ruff: noqa: S101 — assertions are what this module is for

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pytest

from headspring.knowledge.series.port import Matcher, MatchOp, SeriesStore
from headspring.proto.errors import LimitExceeded, QueryError
from headspring.proto.telemetry import MetricBatch, SeriesDescriptor

OpenSeriesStore = Callable[[], SeriesStore]
S = 1_000_000_000
START_NS = 1_800_000_000 * S
_EVER = 2**62


def series(series_id: int, name: str = "load", tenant: str = "default", **labels: str) -> SeriesDescriptor:
    return SeriesDescriptor(
        series_id=series_id, tenant=tenant, name=name, entity=f"host:default/{series_id}", labels=labels
    )


def batch(
    samples: Sequence[tuple[int, int, float]], *, tenant: str = "default", new: Sequence[SeriesDescriptor] = ()
) -> MetricBatch:
    """Samples as (series id, seconds after the start, value)."""
    return MetricBatch(
        tenant=tenant,
        series_id=np.array([one[0] for one in samples], dtype=np.uint64),
        time_ns=np.array([START_NS + one[1] * S for one in samples], dtype=np.int64),
        value=np.array([one[2] for one in samples], dtype=np.float64),
        kind=np.ones(len(samples), dtype=np.uint8),
        new_series=tuple(new),
    )


def where(label: str, value: str, op: MatchOp = MatchOp.EQUAL) -> list[Matcher]:
    return [Matcher(label=label, op=op, value=value)]


class SeriesStoreContract:
    """Subclass it and give it an `open_store` fixture."""

    @pytest.fixture
    def open_store(self) -> OpenSeriesStore:
        raise NotImplementedError("the binding gives a fixture open_store")

    @pytest.fixture
    def store(self, open_store: OpenSeriesStore) -> Iterator[SeriesStore]:
        store = open_store()
        yield store
        store.close()

    @staticmethod
    def _points(store: SeriesStore, matchers: Sequence[Matcher], tenant: str = "default") -> Mapping[int, list[float]]:
        found = store.select(tenant, matchers, start_ns=0, end_ns=_EVER)
        return {one.descriptor.series_id: one.value.tolist() for one in found}

    def test_a_written_sample_is_read_at_once(self, store: SeriesStore) -> None:
        store.register([series(7)])
        store.write(batch([(7, 0, 1.5)]))
        (found,) = store.select("default", where("__name__", "load"), start_ns=START_NS, end_ns=START_NS + 1)
        assert (found.descriptor, found.time_ns.tolist(), found.value.tolist()) == (series(7), [START_NS], [1.5])

    def test_series_announced_in_a_batch_are_known(self, store: SeriesStore) -> None:
        store.write(batch([(7, 0, 1.0)], new=[series(7)]))
        assert store.descriptor("default", 7) == series(7)
        assert self._points(store, where("__name__", "load")) == {7: [1.0]}

    def test_the_range_holds_its_start_and_not_its_end(self, store: SeriesStore) -> None:
        store.register([series(7)])
        store.write(batch([(7, second, float(second)) for second in range(5)]))
        (found,) = store.select("default", where("__name__", "load"), start_ns=START_NS + S, end_ns=START_NS + 3 * S)
        assert found.value.tolist() == [1.0, 2.0]

    def test_samples_come_in_time_order_however_they_were_written(self, store: SeriesStore) -> None:
        store.register([series(7)])
        for second in (3, 0, 2, 1):
            store.write(batch([(7, second, float(second))]))
        assert self._points(store, where("__name__", "load")) == {7: [0.0, 1.0, 2.0, 3.0]}

    def test_of_two_samples_at_one_time_the_later_written_wins(self, open_store: OpenSeriesStore) -> None:
        store = open_store()
        store.register([series(7)])
        store.write(batch([(7, 0, 1.0), (7, 0, 2.0)]))
        store.write(batch([(7, 0, 3.0)]))
        assert self._points(store, where("__name__", "load")) == {7: [3.0]}
        store.close()
        store = open_store()
        assert self._points(store, where("__name__", "load")) == {7: [3.0]}
        store.write(batch([(7, 0, 4.0)]))
        assert self._points(store, where("__name__", "load")) == {7: [4.0]}
        store.close()

    def test_series_and_samples_survive_closing(self, open_store: OpenSeriesStore) -> None:
        store = open_store()
        store.register([series(2**64 - 1, zone="a")])
        store.write(batch([(2**64 - 1, 0, 1.0), (2**64 - 1, 1, math.nan)]))
        store.close()
        store = open_store()
        values = self._points(store, where("zone", "a"))[2**64 - 1]
        assert values[0] == 1.0
        assert math.isnan(values[1])
        store.close()

    def test_old_samples_are_read_together_with_new_ones(self, store: SeriesStore) -> None:
        """Hours apart: whatever a backend keeps where, a range over both is whole and in order."""
        store.register([series(7), series(8)])
        hours = range(0, 8 * 3600, 300)
        for second in hours:
            store.write(batch([(7, second, float(second)), (8, second, -float(second))]))
        store.write(batch([(7, 10, 10.0)]))  # very late
        assert self._points(store, where("__name__", "load"))[7] == sorted([*map(float, hours), 10.0])
        assert self._points(store, where("__name__", "load"))[8] == [-float(second) for second in hours]

    def test_infinite_values_and_gaps_keep_what_they_are(self, store: SeriesStore) -> None:
        store.register([series(7)])
        store.write(batch([(7, 0, math.inf), (7, 1, -math.inf), (7, 2, math.nan)]))
        values = self._points(store, where("__name__", "load"))[7]
        assert values[:2] == [math.inf, -math.inf]
        assert math.isnan(values[2])

    def test_tenants_do_not_see_each_other(self, store: SeriesStore) -> None:
        store.register([series(7), series(7, tenant="other")])
        store.write(batch([(7, 0, 1.0)]))
        store.write(batch([(7, 0, 2.0)], tenant="other"))
        assert self._points(store, where("__name__", "load")) == {7: [1.0]}
        assert self._points(store, where("__name__", "load"), "other") == {7: [2.0]}
        assert store.descriptor("nobody", 7) is None
        assert store.select_ids("nobody", [7], start_ns=0, end_ns=_EVER) == {}

    @pytest.mark.parametrize(
        ("matcher", "found"),
        [
            (where("zone", "a"), {1}),
            (where("zone", "a", MatchOp.NOT_EQUAL), {2, 3}),
            (where("zone", "a|b", MatchOp.REGEX), {1, 2}),
            (where("zone", "a", MatchOp.NOT_REGEX), {2, 3}),
            (where("zone", ""), {3}),
            (where("zone", "", MatchOp.NOT_EQUAL), {1, 2}),
            (where("zone", ".*", MatchOp.REGEX), {1, 2, 3}),
            (where("zone", ".+", MatchOp.REGEX), {1, 2}),
            (where("zone", "", MatchOp.REGEX), {3}),
            (where("zone", ".+", MatchOp.NOT_REGEX), {3}),
            (where("pod", "web", MatchOp.REGEX), {2}),
            (where("nowhere", ""), {1, 2, 3}),
            (where("nowhere", "x"), set()),
            (where("nowhere", "x", MatchOp.NOT_EQUAL), {1, 2, 3}),
            (where("__entity__", "host:default/2"), {2}),
            ([*where("zone", "b"), *where("pod", "web.*", MatchOp.REGEX)], {2}),
            ([*where("zone", "b"), *where("pod", "db")], set()),
            ([], {1, 2, 3}),
        ],
    )
    def test_matchers_mean_what_prometheus_means(
        self, store: SeriesStore, matcher: list[Matcher], found: set[int]
    ) -> None:
        """A regular expression matches the whole value, and a missing label is an empty one."""
        store.register([series(1, zone="a", pod="web-1"), series(2, zone="b", pod="web"), series(3)])
        assert {one.series_id for one in store.find("default", matcher)} == found

    def test_a_dotted_name_is_found_in_both_spellings(self, store: SeriesStore) -> None:
        store.register([series(1, "http.server.duration"), series(2, "other")])
        for spelt in ("http.server.duration", "http_server_duration"):
            assert [one.series_id for one in store.find("default", where("__name__", spelt))] == [1]
            assert [one.series_id for one in store.find("default", where("__name__", spelt, MatchOp.NOT_EQUAL))] == [2]

    def test_series_are_listed_by_name_and_labels(self, store: SeriesStore) -> None:
        store.register([series(1, "b"), series(2, "a", zone="z"), series(3, "a", zone="k")])
        assert [one.series_id for one in store.find("default", [])] == [3, 2, 1]
        assert [one.series_id for one in store.find("default", [], limit=2)] == [3, 2]

    def test_a_series_described_anew_is_found_by_its_new_labels_only(self, store: SeriesStore) -> None:
        store.register([series(1, zone="a")])
        store.register([series(1, zone="b")])
        assert store.find("default", where("zone", "a")) == []
        assert [one.series_id for one in store.find("default", where("zone", "b"))] == [1]

    def test_too_many_series_are_refused(self, store: SeriesStore) -> None:
        store.register([series(one, n=str(one)) for one in range(5)])
        with pytest.raises(LimitExceeded):
            store.select("default", [], start_ns=0, end_ns=_EVER, limit=4)
        store.select("default", [], start_ns=0, end_ns=_EVER, limit=5)

    def test_a_broken_regular_expression_is_a_query_error(self, store: SeriesStore) -> None:
        store.register([series(1, zone="a")])
        with pytest.raises(QueryError):
            store.find("default", where("zone", "(", MatchOp.REGEX))

    @pytest.mark.timeout(20)
    def test_a_hostile_regular_expression_takes_no_time(self, store: SeriesStore) -> None:
        store.register([series(1, zone="a" * 60 + "!")])
        assert store.find("default", where("zone", "(a|aa)+$", MatchOp.REGEX)) == []

    def test_dropping_forgets_older_samples_only(self, open_store: OpenSeriesStore) -> None:
        store = open_store()
        store.register([series(7)])
        store.write(batch([(7, second, float(second)) for second in range(4)]))
        assert store.drop_before(START_NS + 2 * S) == 2
        assert self._points(store, where("__name__", "load")) == {7: [2.0, 3.0]}
        store.close()
        store = open_store()
        assert self._points(store, where("__name__", "load")) == {7: [2.0, 3.0]}
        store.close()

    def test_ids_without_samples_in_the_range_are_left_out(self, store: SeriesStore) -> None:
        store.register([series(7), series(8)])
        store.write(batch([(7, 0, 1.0)]))
        assert set(store.select_ids("default", [7, 8, 9], start_ns=0, end_ns=_EVER)) == {7}
        assert store.select_ids("default", [7], start_ns=START_NS + 1, end_ns=_EVER) == {}

    def test_threads_may_write_and_read_at_once(self, store: SeriesStore) -> None:
        store.register([series(one) for one in range(4)])
        errors: list[BaseException] = []

        def write(series_id: int) -> None:
            try:
                for second in range(50):
                    store.write(batch([(series_id, second, float(second))]))
                    store.select_ids("default", [series_id], start_ns=0, end_ns=_EVER)
            except BaseException as error:  # noqa: BLE001 — handed to the test's own thread
                errors.append(error)

        threads = [threading.Thread(target=write, args=(one,)) for one in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert self._points(store, []) == {one: [float(second) for second in range(50)] for one in range(4)}
