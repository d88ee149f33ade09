"""What the document store does with a real Elasticsearch beyond its contract: refusals, crowds, crashes, retention."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import httpx2
import pytest
from elasticsearch import Elasticsearch as Client
from tests.servers.door import Answer, Request, door
from tests.servers.elasticsearch import Elasticsearch, elasticsearch

from headspring.knowledge.documents.elasticsearch.settings import ElasticsearchSettings
from headspring.knowledge.documents.elasticsearch.store import ElasticsearchDocumentStore
from headspring.knowledge.documents.port import LISTED_WITHIN_S, LOGS_LISTED_WITHIN_S, Document
from headspring.knowledge.testing.documents import alert, incident, logs
from headspring.proto.clock import NS_PER_S
from headspring.proto.errors import Rejected, Unavailable
from headspring.proto.incident import Diagnosis
from headspring.proto.telemetry import LogBatch, LogRecord

pytestmark = pytest.mark.real
DAY_NS = 86_400 * NS_PER_S
_PREFIXES = (f"t{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elasticsearch]:
    with elasticsearch(tmp_path_factory.mktemp("elasticsearch")) as node:
        yield node


@pytest.fixture(scope="module")
def client(server: Elasticsearch) -> Iterator[Client]:
    """To look behind the store."""
    with Client(server.url, request_timeout=30.0) as plain:
        yield plain


@pytest.fixture
def settings(server: Elasticsearch) -> ElasticsearchSettings:
    return ElasticsearchSettings(urls=(server.url,), prefix=next(_PREFIXES), read_timeout_s=20.0)


@pytest.fixture
def store(settings: ElasticsearchSettings) -> Iterator[ElasticsearchDocumentStore]:
    opened = ElasticsearchDocumentStore(settings)
    yield opened
    opened.close()


def day(number: int) -> int:
    """Unix nanoseconds of a day's start; 0 is 2026-03-01."""
    return round(datetime(2026, 3, 1, tzinfo=UTC).timestamp()) * NS_PER_S + number * DAY_NS


def bodies(store: ElasticsearchDocumentStore, text: str = "") -> list[str]:
    store.settle()
    return [hit.record.body for hit in store.search_logs("t", text, limit=1000).items]


def log_indices(client: Client, settings: ElasticsearchSettings) -> list[str]:
    return sorted(client.indices.get(index=f"{settings.prefix}-logs-*", allow_no_indices=True).body)


def test_a_document_that_the_server_will_never_take_is_named_and_the_others_are_kept(
    store: ElasticsearchDocumentStore,
) -> None:
    too_long = "service:d/" + "a" * 40_000  # longer than a term of Lucene may be
    with pytest.raises(Rejected) as caught:
        store.put_all([alert("good-1"), replace(alert("bad"), entity=too_long), alert("good-2")])
    assert "refuses 1 of 3 documents: alert bad: " in str(caught.value)
    assert "immense term" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert store.alert("t", "good-1") is not None
    assert store.alert("t", "good-2") is not None
    assert store.alert("t", "bad") is None
    with pytest.raises(Rejected, match=r"refuses 2 of 3 documents: log line of service:d/aaa.* at 1000"):
        store.put_all([logs("fine"), logs("one", "two", entity=too_long, time_ns=1000)])
    assert bodies(store) == ["fine"]
    with pytest.raises(Rejected, match="log line of service:d/a at 0: text that cannot be written as UTF-8"):
        store.put_logs(logs("half a pair \ud800"))


def test_log_lines_lie_in_the_index_of_their_day_and_go_with_it(
    store: ElasticsearchDocumentStore, settings: ElasticsearchSettings, client: Client
) -> None:
    batches = [logs(f"start of day {number}", f"later that day {number}", time_ns=day(number)) for number in range(4)]
    batches.append(logs("evening of day 1", time_ns=day(1) + 20 * 3600 * NS_PER_S))
    store.put_all(batches)
    names = [f"{settings.prefix}-logs-2026.03.0{number}-00-24h" for number in (1, 2, 3, 4)]
    assert log_indices(client, settings) == names
    store.settle()
    # The limit lies in day 1: day 0 goes whole, of day 1 the evening stays.
    assert store.drop_logs_before(day(1) + 12 * 3600 * NS_PER_S) == 4
    assert log_indices(client, settings) == names[1:]
    assert "evening of day 1" in bodies(store)
    assert len(bodies(store)) == 5
    assert store.counts("t")["logs"] == 5
    # A limit that moves back (another process' clock) shows nothing again, and one further on hides more.
    assert store.drop_logs_before(day(1) + 3600 * NS_PER_S) == 0
    assert len(bodies(store)) == 5
    assert store.drop_logs_before(day(2)) == 1
    assert log_indices(client, settings) == names[2:]
    # A replay of the dropped day makes it anew, until the next look.
    store.put_all(batches)
    assert log_indices(client, settings) == names
    store.settle()
    assert store.drop_logs_before(day(2)) == 5
    assert log_indices(client, settings) == names[2:]
    store.drop_logs_before(day(9))
    assert log_indices(client, settings) == []
    assert bodies(store) == []
    assert store.counts("t")["logs"] == 0
    store.put_all(batches)
    assert len(bodies(store)) == 9


def test_a_wrong_clock_does_not_make_an_index_for_every_day(
    store: ElasticsearchDocumentStore, settings: ElasticsearchSettings, client: Client
) -> None:
    now = day(20)
    wild = [now - 31 * DAY_NS, now + 2 * DAY_NS, 0, 2**62, -5]
    records = tuple(LogRecord(time_ns=time_ns, body=f"at {time_ns}") for time_ns in (now, now - DAY_NS, *wild))
    store.put_logs(LogBatch(tenant="t", entity="service:d/a", received_ns=now, records=records))
    assert log_indices(client, settings) == [
        f"{settings.prefix}-logs-2026.03.20-00-24h",
        f"{settings.prefix}-logs-2026.03.21-00-24h",
        f"{settings.prefix}-logs-other",
    ]
    store.settle()
    assert store.drop_logs_before(now) == 4
    assert bodies(store) == [f"at {2**62}", f"at {now + 2 * DAY_NS}", f"at {now}"]


def test_shorter_partitions(server: Elasticsearch, client: Client) -> None:
    settings = ElasticsearchSettings(urls=(server.url,), prefix=next(_PREFIXES), log_partition_hours=6, log_shards=2)
    store = ElasticsearchDocumentStore(settings)
    store.put_logs(logs("noon", time_ns=day(0) + 12 * 3600 * NS_PER_S))
    store.put_logs(logs("evening", time_ns=day(0) + 18 * 3600 * NS_PER_S - 1))
    store.put_logs(logs("night", time_ns=day(0) + 18 * 3600 * NS_PER_S))
    names = [f"{settings.prefix}-logs-2026.03.01-{hour}-6h" for hour in (12, 18)]
    assert log_indices(client, settings) == names
    assert client.indices.get_settings(index=names[0]).body[names[0]]["settings"]["index"]["number_of_shards"] == "2"
    assert bodies(store) == ["night", "evening", "noon"]
    assert store.drop_logs_before(day(0) + 18 * 3600 * NS_PER_S) == 2
    assert bodies(store) == ["night"]
    store.close()


def test_searches_go_on_while_a_partition_is_made(store: ElasticsearchDocumentStore) -> None:
    store.put_logs(logs("first", time_ns=day(0)))
    store.settle()
    stop = threading.Event()

    def search() -> int:
        """Searches until told to stop; how many."""
        searches = 0
        while not stop.is_set():
            assert "first" in {hit.record.body for hit in store.search_logs("t", "", limit=100).items}
            searches += 1
        return searches

    with ThreadPoolExecutor(2) as pool:
        searching = [pool.submit(search) for _ in range(2)]
        try:
            for number in range(1, 9):
                store.put_logs(logs("another", time_ns=day(number)))
        finally:
            stop.set()
        assert min(one.result() for one in searching) > 0


def test_indices_deleted_by_somebody_are_made_again(
    store: ElasticsearchDocumentStore, settings: ElasticsearchSettings, client: Client
) -> None:
    everything: list[Document] = [
        incident("in-1"),
        alert("al-1"),
        logs("line"),
        Diagnosis(incident_id="in-1", tenant="t"),
    ]
    store.put_all(everything)
    client.indices.delete(index=[f"{settings.prefix}-incidents-000001", f"{settings.prefix}-alerts-000001"])
    client.indices.delete(index=log_indices(client, settings))
    assert store.incident("t", "in-1") is None
    assert store.alerts("t").items == ()
    assert store.search_logs("t", "").items == []
    client.indices.delete(index=f"{settings.prefix}-alerts-000001")
    client.indices.delete_index_template(name=f"{settings.prefix}-alerts")
    store.put_all(everything)
    store.settle()
    assert store.counts("t") == {"incidents": 1, "diagnoses": 1, "alerts": 1, "changes": 0, "logs": 1}
    for kind in ("incidents", "alerts", "logs"):  # as our templates say, not as the server guesses
        for about in client.indices.get_mapping(index=f"{settings.prefix}-{kind}").body.values():
            assert about["mappings"]["dynamic"] == "strict"


def test_two_installations_share_a_server(store: ElasticsearchDocumentStore, server: Elasticsearch) -> None:
    other = ElasticsearchDocumentStore(ElasticsearchSettings(urls=(server.url,), prefix=next(_PREFIXES)))
    store.put_all([incident("in-1"), logs("mine")])
    other.put_logs(logs("theirs", time_ns=day(0)))
    assert bodies(store) == ["mine"]
    assert other.incident("t", "in-1") is None
    assert other.drop_logs_before(day(1)) in (0, 1)  # listed yet or not
    assert bodies(store) == ["mine"]
    other.close()


def test_writers_that_put_the_same_lines_at_once_add_them_once(
    server: Elasticsearch, settings: ElasticsearchSettings
) -> None:
    with ThreadPoolExecutor(6) as pool:  # all of them find nothing, and make what is missing
        stores = list(pool.map(ElasticsearchDocumentStore, [settings] * 6))
    batches = [logs(*(f"line {one}" for one in range(500)), time_ns=day(number)) for number in range(4)]
    with ThreadPoolExecutor(len(stores)) as pool:
        list(pool.map(lambda store: store.put_all(batches), stores))
    stores[0].settle()
    assert stores[0].counts("t")["logs"] == 2000
    for store in stores:
        store.close()


def test_a_node_that_answers_nothing_costs_one_wait_where_there_is_another(
    server: Elasticsearch, settings: ElasticsearchSettings
) -> None:
    ElasticsearchDocumentStore(settings).close()
    over = threading.Event()

    def keep(request: Request) -> Answer | None:
        over.wait(60.0)
        return None

    with door(keep, behind=server.url) as silent:
        both = replace(settings, urls=(silent, server.url), read_timeout_s=2.0, write_timeout_s=5.0)
        store = ElasticsearchDocumentStore(both, require=False)
        _until_it_works(lambda: store.put_alert(alert("al-1")))
        for _ in range(20):
            assert store.alert("t", "al-1") is not None
        over.set()
        store.close()


def test_lists_show_what_was_put_within_the_bounds(store: ElasticsearchDocumentStore) -> None:
    def seen_after_s(number: int, *, of_logs: bool) -> float:
        started = time.monotonic()
        store.put_all([logs(f"line{number}")] if of_logs else [incident(f"in-{number}", title=f"title{number}")])
        while not (
            store.search_logs("t", f"line{number}") if of_logs else store.incidents("t", text=f"title{number}")
        ).items:
            assert time.monotonic() - started < 30
            time.sleep(0.02)
        return time.monotonic() - started

    # Medians: the machine of the tests may have other things to do.
    assert statistics.median(seen_after_s(number, of_logs=False) for number in range(9)) <= LISTED_WITHIN_S
    assert statistics.median(seen_after_s(number, of_logs=True) for number in range(9)) <= LOGS_LISTED_WITHIN_S


def test_a_blocked_index_keeps_documents_waiting(
    store: ElasticsearchDocumentStore, settings: ElasticsearchSettings, client: Client
) -> None:
    """As the server does itself when its disk is nearly full."""
    store.put_alert(alert("al-1"))
    hasty = ElasticsearchDocumentStore(replace(settings, busy_s=0.3))
    index = f"{settings.prefix}-alerts-000001"
    for block in ("read_only_allow_delete", "write"):
        client.indices.put_settings(index=index, settings={f"index.blocks.{block}": True})
        with pytest.raises(Unavailable, match="blocked by"):
            hasty.put_alert(alert("al-2"))
        assert hasty.alert("t", "al-1") is not None
        client.indices.put_settings(index=index, settings={f"index.blocks.{block}": None})
    hasty.put_alert(alert("al-2"))
    hasty.close()


def test_items_that_the_server_has_no_room_for_are_sent_again_alone(
    server: Elasticsearch, settings: ElasticsearchSettings
) -> None:
    """The door has no room for the second of three, as a full queue of one shard would."""
    sent: list[int] = []
    refusals = [2]

    def keep(request: Request) -> Answer | None:
        lines = request.body.splitlines()
        if request.path.startswith("/_bulk") and b'"create"' in request.body:
            sent.append(len(lines) // 2)
            if refusals[0] > 0:
                refusals[0] -= 1
                error = {"type": "es_rejected_execution_exception", "reason": "rejected execution: queue is full"}
                full = {"create": {"status": 429, "error": error}}
                if len(lines) == 2:
                    return Answer(200, {"items": [full]}, {"x-elastic-product": "Elasticsearch"})
                request.body = b"\n".join([*lines[:2], *lines[4:], b""])
                done = {"create": {"status": 201}}
                _post(server.url + request.path, request.body)
                return Answer(200, {"items": [done, full, done]}, {"x-elastic-product": "Elasticsearch"})
        return None

    with door(keep, behind=server.url) as url:
        store = ElasticsearchDocumentStore(replace(settings, urls=(url,)))
        store.put_logs(logs("one", "two", "three"))
        assert sent == [3, 1, 1]
        assert sorted(bodies(store)) == ["one", "three", "two"]
        refusals[0] = 1000
        hasty = ElasticsearchDocumentStore(replace(settings, urls=(url,), busy_s=0.4))
        with pytest.raises(Unavailable) as caught:
            hasty.put_logs(logs("four", "five", "six", time_ns=100))
        assert str(caught.value).endswith(
            "had no room within 0.4 s for log line of service:d/a at 101: rejected execution: queue is full"
        )
        refusals[0] = 0
        hasty.put_logs(logs("four", "five", "six", time_ns=100))  # as told: all of them again
        assert len(bodies(hasty)) == 6
        store.close()
        hasty.close()


@pytest.mark.timeout(300)
def test_nothing_acknowledged_is_lost_when_the_server_is_killed(
    server: Elasticsearch, settings: ElasticsearchSettings
) -> None:
    store = ElasticsearchDocumentStore(replace(settings, busy_s=1.0))
    acknowledged: list[int] = []
    failures: list[Unavailable] = []
    stop = threading.Event()

    def write() -> None:
        """Puts one number after the other, each until it is taken."""
        number = 0
        while not stop.is_set():
            try:
                store.put_all(
                    [
                        incident("in", version=number + 1, title=f"v{number}"),
                        alert(f"al-{number}"),
                        logs(f"line {number}", "same", time_ns=day(number % 3) + number),
                    ]
                )
            except Unavailable as error:
                failures.append(error)
                time.sleep(0.1)
            else:
                acknowledged.append(number)
                number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for kills in (1, 2):
            _wait_for(acknowledged, len(acknowledged) + 15)
            server.kill9()
            _wait_for(failures, kills)
            server.start()
        _wait_for(acknowledged, len(acknowledged) + 15)
    finally:
        stop.set()
        writer.join()
    assert all("\n" not in str(error) for error in failures)
    store.settle()
    found = store.incident("t", "in")
    assert found is not None
    assert found.version > acknowledged[-1]
    assert [number for number in acknowledged if store.alert("t", f"al-{number}") is None] == []
    lines = {
        hit.record.body
        for number in range(3)
        for hit in store.search_logs("t", "line", start_ns=day(number), end_ns=day(number + 1), limit=1000).items
    }
    assert [number for number in acknowledged if f"line {number}" not in lines] == []
    assert store.counts("t")["logs"] in (2 * len(acknowledged), 2 * len(acknowledged) + 2)  # none twice
    store.close()


@pytest.mark.timeout(300)
def test_a_server_that_is_away_is_told_soon_and_used_again_when_it_is_back(
    server: Elasticsearch, settings: ElasticsearchSettings
) -> None:
    ElasticsearchDocumentStore(settings).close()
    hasty = replace(settings, read_timeout_s=1.0, write_timeout_s=1.0)
    store = ElasticsearchDocumentStore(hasty, require=False)
    _until_it_works(lambda: store.put_incident(incident("in-1")))
    with server.frozen():
        _until_it_says(lambda: store.incident("t", "in-1"), "did not answer within 1 s")
        # Nobody else waits that long for the same news.
        _until_it_says(lambda: store.put_alert(alert("al-1")), "did not answer in time a moment ago")
    _until_it_works(lambda: store.put_alert(alert("al-1")))
    server.stop()
    calls: tuple[Callable[[], object], ...] = (
        lambda: store.put_all([alert("al-2"), logs("x")]), lambda: store.incident("t", "in-1"),
        lambda: store.incidents("t"), lambda: store.search_logs("t", ""), lambda: store.counts("t"),
        lambda: store.drop_logs_before(1), lambda: store.delete_tenant("t"), store.settle,
    )  # fmt: skip
    for call in calls:
        _until_it_says(call, "is away: Connection refused")
    later = ElasticsearchDocumentStore(replace(settings, prefix=next(_PREFIXES)), require=False)
    _until_it_says(lambda: later.incident("t", "in-1"), "Connection refused")
    server.start()
    _until_it_works(lambda: store.put_alert(alert("al-2")))
    _until_it_works(lambda: later.put_alert(alert("al-3")))
    assert later.alert("t", "al-3") is not None
    store.close()
    later.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elasticsearch]:
    limits = {
        "node.processors": "1", "thread_pool.write.queue_size": "2", "indexing_pressure.memory.limit": "2mb",
        "http.max_content_length": "1mb",
    }  # fmt: skip
    with elasticsearch(tmp_path_factory.mktemp("small"), settings=limits) as node:
        yield node


@pytest.mark.timeout(300)
def test_many_writers_at_a_small_server_wait_for_room(small: Elasticsearch) -> None:
    settings = ElasticsearchSettings(urls=(small.url,), read_timeout_s=30.0, busy_s=120.0, prefix="crowd")
    store = ElasticsearchDocumentStore(settings)
    store.put_logs(logs("first", time_ns=day(0)))

    def write(number: int) -> None:
        lines = (f"{number} {one} {'x' * 1000}" for one in range(300))
        store.put_logs(logs(*lines, time_ns=day(0), entity=f"service:d/{number}"))

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(write, range(12)))
    store.settle()
    assert store.counts("t")["logs"] == 3601
    with Client(small.url, request_timeout=30.0) as client:
        (node,) = client.nodes.stats(metric="indexing_pressure,thread_pool").body["nodes"].values()
    refused = node["thread_pool"]["write"]["rejected"]
    refused += node["indexing_pressure"]["memory"]["total"]["coordinating_rejections"]
    assert refused > 0, "the server was large enough: nothing was shown"
    store.close()


def test_requests_shrink_for_a_server_that_takes_small_ones(small: Elasticsearch) -> None:
    settings = ElasticsearchSettings(urls=(small.url,), read_timeout_s=30.0, busy_s=60.0, prefix="shrink")
    store = ElasticsearchDocumentStore(settings)
    store.put_logs(logs(*(f"{one} {'x' * 10_000}" for one in range(200)), time_ns=day(0)))
    store.settle()
    assert store.counts("t")["logs"] == 200
    with pytest.raises(Rejected, match=r"refuses 1 of 3 documents: log line of service:d/a at \d+: .*413"):
        store.put_logs(logs("small", "y" * 2_000_000, "also small", time_ns=day(1)))
    store.settle()
    assert store.counts("t")["logs"] == 202
    store.close()


def _wait_for(items: Sized, count: int, timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while len(items) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _until_it_says(call: Callable[[], object], message: str) -> None:
    """It fails soon every time, and with this message before long: a busy machine may be late for the first."""
    for _ in range(10):
        started = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            call()
        assert time.monotonic() - started < 8  # without bounds of ours it would be 10 or 30
        if message in str(caught.value):
            return
    raise AssertionError(f"never said {message!r}, but {caught.value}")


def _until_it_works(call: Callable[[], object], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            call()
        except Unavailable:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        else:
            return


def _post(url: str, body: bytes) -> None:
    headers = {"content-type": "application/x-ndjson"}
    httpx2.post(url, content=body, headers=headers, timeout=30.0, trust_env=False).raise_for_status()
