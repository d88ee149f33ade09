"""Series ids, the registry, the raw table and entity naming."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headspring.ingestion.admit.limits import Limits
from headspring.ingestion.admit.registry import SeriesRegistry, identify
from headspring.ingestion.normalize.alerts import label_set_fingerprint
from headspring.ingestion.normalize.entities import of_labels, of_resource, peer_of_span
from headspring.ingestion.normalize.metrics import otlp_series, prometheus_series
from headspring.ingestion.normalize.values import time_ns
from headspring.ingestion.testing import KEY, gauge_request, make_intake
from headspring.ingestion.wire.table import RawTable
from headspring.proto.errors import ContractError
from headspring.proto.ids import split_entity
from headspring.proto.semantics import DERIVED_METRICS
from headspring.proto.telemetry import MetricKind, SeriesDescriptor
from headspring.proto.topics import shard_of

pairs = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=6)


@given(pairs, st.randoms(use_true_random=False))
def test_the_id_does_not_depend_on_the_order_of_labels(labels: dict[str, str], rng: object) -> None:
    shuffled = dict(reversed(list(labels.items())))
    assert identify(KEY, "t", "m", "s", labels) == identify(KEY, "t", "m", "s", shuffled)


def test_the_id_depends_on_every_part_and_on_the_key() -> None:
    base = ("t", "m", "s", {"a": "b"})
    ids = {
        identify(KEY, *base),
        identify(bytes(16), *base),
        identify(KEY, "u", "m", "s", {"a": "b"}),
        identify(KEY, "t", "n", "s", {"a": "b"}),
        identify(KEY, "t", "m", "ms", {"a": "b"}),
        identify(KEY, "t", "m", "s", {"a": "c"}),
        identify(KEY, "t", "m", "s", {"ab": ""}),
        identify(KEY, "t", "m", "s", {}),
    }
    assert len(ids) == 8


def test_what_is_judged_together_goes_to_one_shard_whatever_their_number_and_the_rest_spreads() -> None:
    def shards(names: Sequence[str], labels: Mapping[str, str], count: int) -> set[int]:
        return {shard_of(identify(KEY, "t", name, DERIVED_METRICS.get(name, ""), labels)[0], count) for name in names}

    families = [{"service": f"s{number}"} for number in range(1000)]
    for count in (3, 4, 12, 75):
        assert all(len(shards(list(DERIVED_METRICS), labels, count)) == 1 for labels in families)
        assert set().union(*(shards(list(DERIVED_METRICS), labels, count) for labels in families)) == set(range(count))
    assert len(shards([f"metric_{number}" for number in range(200)], {"service": "large"}, 12)) == 12


def test_a_collision_is_refused_and_named() -> None:
    registry = SeriesRegistry(key=KEY, limits=Limits())
    draft = prometheus_series({"__name__": "up", "job": "a"})
    admission = registry.admission("t")
    admitted = admission.admit(draft)
    assert admitted is not None
    admission.commit()
    # The same id with another check: as if another series had hashed to it.
    registry._known["t"][admitted[0]] ^= 1 << 40
    assert registry.admission("t").admit(draft) is None
    again = registry.admission("t")
    again.admit(draft)
    assert "collides" in again.reason


def test_descriptors_of_another_key_are_not_loaded() -> None:
    registry = SeriesRegistry(key=KEY, limits=Limits())
    admission = registry.admission("t")
    admission.admit(prometheus_series({"__name__": "up"}))
    assert SeriesRegistry(key=bytes(16), limits=Limits()).load(admission.new.values()) == 0
    assert SeriesRegistry(key=KEY, limits=Limits()).load(admission.new.values()) == 1


def test_series_with_too_many_or_too_long_labels_are_refused() -> None:
    admission = SeriesRegistry(key=KEY, limits=Limits(max_labels=2, max_label_bytes=8)).admission("t")
    for labels, reason in (
        ({"__name__": "m", "a": "1", "b": "2", "c": "3"}, "more than 2 labels"),
        ({"__name__": "m", "a": "é" * 5}, "more than 8 bytes"),
        ({"a": "1"}, "no name"),
    ):
        assert admission.admit(prometheus_series(labels)) is None
        assert reason in admission.reason


def test_attributes_that_share_a_promql_name_stay_apart() -> None:
    draft = otlp_series(
        resource={"zone": "r", "service.name": "cart", "telemetry.sdk.name": "otel"}, entity="service:default/cart",
        scope="", name="m", unit="", kind=MetricKind.GAUGE, attributes={"zone": "p", "a.b": "1", "a_b": "2"},
    )  # fmt: skip
    assert draft.labels == {
        "zone": "p", "resource_zone": "r", "service_name": "cart", "service": "cart", "a_b": "1", "resource_a_b": "2",
    }  # fmt: skip


def test_the_raw_table_finds_all_it_holds_and_starts_over_at_its_bound() -> None:
    rng = np.random.default_rng(1)
    table = RawTable(max_entries=50_000)
    raws = np.unique(rng.integers(1, 2**63, size=20_000, dtype=np.uint64))
    kinds = (raws % np.uint64(5)).astype(np.uint8)
    for part in range(0, raws.size, 999):
        table.put(raws[part : part + 999], raws[part : part + 999] + np.uint64(1), kinds[part : part + 999])
    ids, found_kinds, missing = table.lookup(raws)
    assert missing == 0
    assert len(table) == raws.size
    assert (ids == raws + np.uint64(1)).all()
    assert (found_kinds == kinds).all()
    assert table.lookup(raws + np.uint64(2**63))[2] == raws.size
    table.put(np.arange(1, 40_001, dtype=np.uint64), np.ones(40_000, np.uint64), np.ones(40_000, np.uint8))
    assert len(table) == 40_000


@pytest.mark.parametrize(
    ("labels", "metric", "entity"),
    [
        ({"service": "a", "job": "b"}, "", "service:default/a"),
        ({"app": "a", "namespace": "shop"}, "", "service:shop/a"),
        ({"job": "shop/a"}, "", "service:shop/a"),
        (
            {"service": "kubelet", "container": "pay", "pod": "pay-1", "namespace": "n"},
            "container_cpu",
            "service:n/pay",
        ),
        ({"service": "ksm", "deployment": "pay", "namespace": "n"}, "kube_deployment_replicas", "service:n/pay"),
        ({"job": "node", "instance": "web-1:9100"}, "node_load1", "host:default/web-1"),
        ({"pod": "pay-6d4cf56db6-x7k2p"}, "", "service:default/pay"),
        ({"instance": "10.0.0.1:80"}, "", "host:default/10.0.0.1"),
        ({"entity": "database:default/pg", "service": "x"}, "", "database:default/pg"),
        ({"entity": "nonsense", "service": "x"}, "", "service:default/x"),
        ({"severity": "page"}, "", ""),
    ],
)
def test_labels_name_their_entity(labels: dict[str, str], metric: str, entity: str) -> None:
    assert of_labels(labels, metric) == entity


@given(pairs | st.fixed_dictionaries({"service": st.text(min_size=1), "namespace": st.text()}))
def test_any_labels_give_a_valid_entity_or_none(labels: dict[str, str]) -> None:
    for entity in (of_labels(labels), of_resource({"service.name": labels.get("service", ""), **labels})):
        assert entity == "" or split_entity(entity)


@given(st.dictionaries(st.sampled_from(["peer.service", "db.system", "server.address", "messaging.system"]), st.text()))
def test_any_span_attributes_give_a_valid_peer_or_none(attributes: dict[str, str]) -> None:
    peer = peer_of_span(attributes)
    assert peer == "" or split_entity(peer)


def test_alertmanagers_fingerprint_is_fnv_1a_over_sorted_labels() -> None:
    # 64-bit FNV-1a of nothing, and of "a" 0xff "b" 0xff worked out by the definition.
    assert label_set_fingerprint({}) == "cbf29ce484222325"
    value = 0xCBF29CE484222325
    for byte in b"a\xffb\xff":
        value = (value ^ byte) * 0x100000001B3 % 2**64
    assert label_set_fingerprint({"a": "b"}) == f"{value:016x}"
    assert label_set_fingerprint({"a": "1", "b": "2"}) == label_set_fingerprint({"b": "2", "a": "1"})


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T01:00:00.000000001+01:00", 1),
        ("0001-01-01T00:00:00Z", 0),
        ("2016-12-31T23:59:60Z", 1_483_228_799_000_000_000),
        (1_700_000_000, 1_700_000_000_000_000_000),
        (1_700_000_000_000, 1_700_000_000_000_000_000),
        ("1700000000", 1_700_000_000_000_000_000),
        (1.5, 1_500_000_000),
        (None, 0),
    ],
)
def test_times_are_read_in_every_usual_form(text: object, wanted: int) -> None:
    assert time_ns(text, "t") == wanted


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.lists(st.integers(), max_size=2)))
def test_any_time_is_nanoseconds_or_a_contract_error(value: object) -> None:
    try:
        read = time_ns(value, "t")
    except ContractError:
        return
    assert 0 <= read < 2**63


@pytest.mark.parametrize("scan", [True, False])
async def test_silent_series_make_room_and_are_published_again_when_they_return(scan: bool) -> None:
    intake, log, clock = make_intake(limits=Limits(max_series=2, series_idle_s=3600, max_age_s=1e6), scan=scan)

    async def send(name: str) -> int:
        body = gauge_request([1.0], name=name).SerializeToString()
        return (await intake.metrics_otlp("t", body, "application/x-protobuf")).accepted

    assert [await send(name) for name in "abc"] == [1, 1, 0]
    for _ in range(7):
        clock.advance(700)
        assert await send("a") == 1, "what goes on reporting stays"
    assert await send("c") == 1, "b fell silent and made room"
    assert await send("b") == 0
    published = [one.name for one in log.messages(SeriesDescriptor, "telemetry.series")]
    assert published == ["a", "b", "c"]


async def test_series_loaded_at_start_that_never_report_do_not_hold_up_the_limit() -> None:
    limits = Limits(max_series=1, max_age_s=1e6)
    first, log, _ = make_intake(limits=limits)
    await first.metrics_otlp("t", gauge_request([1.0], name="old").SerializeToString(), "application/x-protobuf")
    registry = SeriesRegistry(key=KEY, limits=limits)
    registry.load(log.messages(SeriesDescriptor, "telemetry.series"))
    draft = prometheus_series({"__name__": "new"})
    registry.tick(1_000_000)
    assert registry.admission("t").admit(draft) is None
    registry.tick(1_001_000)
    assert registry.admission("t").admit(draft) is not None
