"""The series store's contract."""

# ruff: noqa: S101 — assertions are what this module is for

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from headspring.knowledge.series.port import Matcher, MatchOp, SeriesStore
from headspring.proto.errors import LimitExceeded, QueryError
from headspring.proto.telemetry import MetricBatch, MetricKind, SeriesDescriptor

OpenSeriesStore = Callable[[], SeriesStore]
S = 1_000_000_000
START_NS = 1_700_000_000 * S
"""In the past: a server takes no samples far ahead of now. Its retention must reach back so far."""
_EVER = 2**62


_ODD_LABELS: list[dict[str, str]] = [
    {},
    {"http.method": "GET", "zone": "a"},
    {"quotes": 'a "b" \\ {c="d"} ], "values":[1', "lines": "a\nb\tc\r\x01", "wide": "日本 é 😀"},
    {"a.b": "1", "a_b": "2", "a-b": "3"},
    {"a.b": "1", "a-b": "3"},
    {"__name__": "x", "__tenant__": "y", "__series__": "z", "__entity__": "e", "__rest__": "r", "__graphite__": "a.*"},
    {"empty": "", "0digit": "1", "Ünï": "2", "or": "3", "": "4", "by": "5", "with:colon": "6"},
    {f"label.{number}": f"value {number}" for number in range(64)},
    {"long": "x" * 4096, "n" * 300: "long name"},
]


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


def known(store: SeriesStore, *descriptors: SeriesDescriptor) -> None:
    """Registers series and writes one sample of each, for they can be found from then on."""
    for one in descriptors:
        store.write(batch([(one.series_id, 0, 1.0)], tenant=one.tenant, new=[one]))


class SeriesStoreContract:
    """Subclass it and give it an `open_store` fixture."""

    SERVER_RETENTION = False
    """Whether samples are forgotten by a server's own retention, not by `drop_before`."""

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

    def test_a_sample_written_again_is_read_once(self, open_store: OpenSeriesStore) -> None:
        store = open_store()
        store.register([series(7)])
        store.write(batch([(7, 0, 1.0), (7, 0, 1.0), (7, 1, 2.0)]))
        store.write(batch([(7, 0, 1.0)]))
        assert self._points(store, where("__name__", "load")) == {7: [1.0, 2.0]}
        store.settle()
        store.close()
        store = open_store()
        store.write(batch([(7, 0, 1.0)], new=[series(7)]))
        assert self._points(store, where("__name__", "load")) == {7: [1.0, 2.0]}
        store.close()

    def test_of_different_values_at_one_time_one_stays(self, store: SeriesStore) -> None:
        store.register([series(7)])
        for value in (1.0, 3.0, 2.0):
            store.write(batch([(7, 0, value)]))
        (value,) = self._points(store, where("__name__", "load"))[7]
        assert value in (1.0, 2.0, 3.0)
        assert self._points(store, where("__name__", "load")) == {7: [value]}

    def test_times_are_kept_in_whole_milliseconds(self, store: SeriesStore) -> None:
        store.register([series(7)])
        time_ns = np.array([START_NS + 1_999_999, START_NS + 5_000_000, START_NS + 5_000_001])
        whole = batch([(7, 0, 1.0), (7, 0, 2.0), (7, 0, 2.0)])
        store.write(replace(whole, time_ns=time_ns))
        (found,) = store.select("default", where("__name__", "load"), start_ns=START_NS, end_ns=START_NS + S)
        assert found.time_ns.tolist() == [START_NS + 1_000_000, START_NS + 5_000_000]
        for start, end, count in ((1_000_000, 5_000_000, 1), (1_000_001, 5_000_001, 1), (1_000_001, 5_000_000, 0)):
            data = store.select_ids("default", [7], start_ns=START_NS + start, end_ns=START_NS + end)
            assert sum(one.time_ns.size for one in data.values()) == count

    def test_values_keep_twelve_digits(self, store: SeriesStore) -> None:
        store.register([series(7)])
        random = np.random.default_rng(7)
        values = random.normal(size=500) * 10.0 ** random.integers(-3, 4, size=500)
        store.write(batch([(7, second, float(value)) for second, value in enumerate(values)]))
        found = np.array(self._points(store, where("__name__", "load"))[7])
        assert (np.abs(found - values) <= 2e-12 * np.abs(values) + 1e-14 * np.abs(values).max()).all()

    def test_samples_that_came_before_their_series_are_read_by_id(self, store: SeriesStore) -> None:
        store.write(batch([(7, 0, 1.0)]))
        assert store.select_ids("default", [7], start_ns=0, end_ns=_EVER) == {}
        known(store, series(7, zone="a"))
        store.write(batch([(7, 1, 2.0)]))
        found = store.select_ids("default", [7], start_ns=0, end_ns=_EVER)[7]
        assert (found.descriptor, found.value.tolist()) == (series(7, zone="a"), [1.0, 2.0])

    def test_series_and_samples_survive_closing(self, open_store: OpenSeriesStore) -> None:
        store = open_store()
        store.register([series(2**64 - 1, zone="a")])
        store.write(batch([(2**64 - 1, 0, 1.0), (2**64 - 1, 1, math.nan)]))
        store.settle()
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
            (where("zone", "a|", MatchOp.REGEX), {1, 3}),
            (where("zone", "a|", MatchOp.NOT_REGEX), {2}),
            (where("zone", 'a"} or {x="', MatchOp.EQUAL), set()),
            (where("zone", "A", MatchOp.EQUAL), set()),
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
        known(store, series(1, zone="a", pod="web-1"), series(2, zone="b", pod="web"), series(3))
        assert {one.series_id for one in store.find("default", matcher)} == found
        selected = store.select("default", matcher, start_ns=0, end_ns=_EVER)
        assert {one.descriptor.series_id for one in selected} == found

    @pytest.mark.parametrize(
        ("matcher", "found"),
        [
            (where("__name__", "http.server.duration"), {1}),
            (where("__name__", "http_server_duration"), {1}),
            (where("__name__", "http.server.duration", MatchOp.NOT_EQUAL), {2, 3}),
            (where("__name__", "http_server_duration", MatchOp.NOT_EQUAL), {2, 3}),
            (where("__name__", r"http\.server\..+", MatchOp.REGEX), {1}),
            (where("__name__", "http_.+", MatchOp.REGEX), {1, 2}),
            (where("__name__", r"http\..+", MatchOp.NOT_REGEX), {2, 3}),
            (where("__name__", "http_.+", MatchOp.NOT_REGEX), {3}),
            ([*where("__name__", ".+", MatchOp.REGEX), *where("__name__", "o.+", MatchOp.REGEX)], {3}),
            (where("http.method", "GET"), {1}),
            (where("http_method", "GET"), {1, 2}),
            (where("http.method", "GET", MatchOp.NOT_EQUAL), {2, 3}),
            (where("http_method", "GET|", MatchOp.REGEX), {1, 2, 3}),
            (where("http.method", "G.T", MatchOp.REGEX), {1}),
            (where("http.method", ""), {2, 3}),
            ([*where("http.method", "GET"), *where("__name__", "http_.+", MatchOp.REGEX)], {1}),
        ],
    )
    def test_dotted_names_are_found_in_both_spellings(
        self, store: SeriesStore, matcher: list[Matcher], found: set[int]
    ) -> None:
        dotted = replace(series(1, "http.server.duration"), labels={"http.method": "GET"})
        known(store, dotted, series(2, "http_client", http_method="GET"), series(3, "other"))
        assert {one.series_id for one in store.find("default", matcher)} == found
        selected = store.select("default", matcher, start_ns=0, end_ns=_EVER)
        assert {one.descriptor.series_id for one in selected} == found

    def test_series_are_listed_by_name_and_labels(self, store: SeriesStore) -> None:
        known(store, series(1, "b"), series(2, "a", zone="z"), series(3, "a", zone="k"))
        assert [one.series_id for one in store.find("default", [])] == [3, 2, 1]
        assert [one.series_id for one in store.find("default", [], limit=2)] == [3, 2]
        selected = store.select("default", [], start_ns=0, end_ns=_EVER)
        assert [one.descriptor.series_id for one in selected] == [3, 2, 1]

    def test_whatever_labels_a_series_has_it_is_described_and_found_by_them(self, open_store: OpenSeriesStore) -> None:
        told = [
            replace(series(number, "ödd näme/5"), unit="By/s", kind=MetricKind.COUNTER, labels=labels)
            for number, labels in enumerate(_ODD_LABELS)
        ]
        store = open_store()
        known(store, *told)
        store.settle()
        store.close()
        store = open_store()
        for one in told:
            assert store.descriptor("default", one.series_id) == one
            selected = store.select("default", where("__entity__", one.entity), start_ns=0, end_ns=_EVER)
            assert [other.descriptor for other in selected] == [one]
            for label, value in one.labels.items():
                if value and not label.startswith("__"):
                    assert one in store.find("default", where(label, value)), label
                    selected = store.select("default", where(label, value), start_ns=0, end_ns=_EVER)
                    assert one in [other.descriptor for other in selected], label
        store.close()

    def test_a_series_described_anew_is_found_by_its_new_labels(self, open_store: OpenSeriesStore) -> None:
        store = open_store()
        store.write(batch([(1, 0, 1.0)], new=[series(1, zone="a")]))
        store.write(batch([(1, 1, 2.0)], new=[series(1, zone="b")]))
        store.settle()
        store.close()
        store = open_store()
        assert store.descriptor("default", 1) == series(1, zone="b")
        assert store.find("default", where("zone", "b")) == [series(1, zone="b")]
        assert store.find("default", where("__name__", "load")) == [series(1, zone="b")]
        found = store.select_ids("default", [1], start_ns=0, end_ns=_EVER)[1]
        assert (found.descriptor, found.value.tolist()) == (series(1, zone="b"), [1.0, 2.0])
        store.close()

    def test_too_many_series_are_refused(self, store: SeriesStore) -> None:
        known(store, *(series(one, n=str(one)) for one in range(5)))
        for matchers in ([], where("n", ".+", MatchOp.REGEX), where("n.n", "x", MatchOp.NOT_EQUAL)):
            with pytest.raises(LimitExceeded):
                store.select("default", matchers, start_ns=0, end_ns=_EVER, limit=4)
            assert len(store.select("default", matchers, start_ns=0, end_ns=_EVER, limit=5)) == 5

    def test_a_broken_regular_expression_is_a_query_error(self, store: SeriesStore) -> None:
        known(store, series(1, zone="a"))
        for pattern in ("(", "a" * 5000):
            with pytest.raises(QueryError):
                store.find("default", where("zone", pattern, MatchOp.REGEX))
            with pytest.raises(QueryError):
                store.select("default", where("zone", pattern, MatchOp.REGEX), start_ns=0, end_ns=_EVER)

    @pytest.mark.timeout(20)
    def test_a_hostile_regular_expression_takes_no_time(self, store: SeriesStore) -> None:
        known(store, series(1, zone="a" * 60 + "!"))
        assert store.find("default", where("zone", "(a|aa)+$", MatchOp.REGEX)) == []

    def test_dropping_forgets_older_samples_only(self, open_store: OpenSeriesStore) -> None:
        store = open_store()
        store.register([series(7)])
        store.write(batch([(7, second, float(second)) for second in range(4)]))
        dropped, left = (0, [0.0, 1.0, 2.0, 3.0]) if self.SERVER_RETENTION else (2, [2.0, 3.0])
        assert store.drop_before(START_NS + 2 * S) == dropped
        assert self._points(store, where("__name__", "load")) == {7: left}
        store.settle()
        store.close()
        store = open_store()
        assert self._points(store, where("__name__", "load")) == {7: left}
        store.close()

    def test_a_deleted_tenant_is_gone_and_may_come_again(self, open_store: OpenSeriesStore) -> None:
        store = open_store()
        known(store, series(7, zone="a"), series(8), series(7, tenant="other"))
        assert store.tenants() == ["default", "other"]
        store.delete_tenant("default")
        assert store.find("default", []) == []
        assert store.descriptor("default", 7) is None
        assert store.select_ids("default", [7, 8], start_ns=0, end_ns=_EVER) == {}
        assert store.tenants() == ["other"]
        store.settle()
        store.close()
        store = open_store()
        assert store.select("default", [], start_ns=0, end_ns=_EVER) == []
        assert self._points(store, [], "other") == {7: [1.0]}
        store.write(batch([(7, 1, 5.0)], new=[series(7, zone="a")]))
        assert self._points(store, where("zone", "a")) == {7: [5.0]}
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
