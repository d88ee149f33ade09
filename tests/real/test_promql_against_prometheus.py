"""Thousands of queries over the same random samples: our evaluator and a real Prometheus give the same numbers."""

from __future__ import annotations

import json
import math
import random
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cramjam
import httpx2
import numpy as np
import pytest
from tests.servers.process import free_port, running
from tests.servers.prometheus import program

from headspring.knowledge.series import promql
from headspring.knowledge.series.duckdb_store import DuckDbSeriesStore
from headspring.proto.errors import QueryError
from headspring.proto.telemetry import MetricBatch, SeriesDescriptor

pytestmark = pytest.mark.real

_SPAN_S = 3000
_STALE = struct.pack("<Q", 0x7FF0000000000002)
"""Prometheus' stale marker, model/value/value.go."""
Labels = tuple[tuple[str, str], ...]
Points = list[tuple[int, float | None]]
"""(milliseconds, value); None is a stale marker."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("promql")
    port = free_port()
    (folder / "prometheus.yml").write_text(json.dumps({"global": {"scrape_interval": "60s"}}))
    argv = [
        str(program()), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}", "--web.enable-remote-write-receiver",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with running(argv, health=f"{url}/-/ready", log=folder / "prometheus.log", cwd=folder):
        yield url


def _samples(random_: random.Random, start_s: int) -> dict[Labels, Points]:
    """Counters with resets and gaps, gauges with stale markers, a sparse series, histograms; jittered times."""
    found: dict[Labels, Points] = {}

    def add(name: str, value: Callable[[int], float | None], period_s: int, gap: float, **labels: str) -> None:
        at_ms, points, index = start_s * 1000 + random_.randrange(period_s * 1000), [], 0
        while at_ms < (start_s + _SPAN_S) * 1000:
            if random_.random() >= gap:
                points.append((at_ms, value(index)))
            index += 1
            at_ms += period_s * 1000 + random_.randrange(-900, 900)
        found[tuple(sorted({"__name__": name, **labels}.items()))] = points

    def counter(start: float) -> Callable[[int], float]:
        held = start

        def value(_: int) -> float:
            nonlocal held
            # Sums of halves and the like are exact; a random part keeps series from tying in topk.
            held = random_.random() * 3 if random_.random() < 0.02 else held + random_.choice([0, 1, 2.5, 7])
            return held

        return value

    for job in "ab":
        for instance in "0123":
            start = random_.random() * random_.choice([1, 100])
            add("req_total", counter(start), 15, 0.05, job=job, inst=instance)
            add(
                "temp", lambda _: None if random_.random() < 0.03 else random_.gauss(0, 5), 15, 0.1, job=job,
                inst=instance,
            )  # fmt: skip
        add("limit", lambda index: 3.0 * (index % 5) + random_.random(), 60, 0, job=job)
        add("sparse", lambda index: index * 1.5 + random_.random(), 200, 0, job=job)
        counts = np.zeros(6)
        rows: list[np.ndarray[Any, Any]] = []
        for _ in range(_SPAN_S // 15):
            counts = counts + np.cumsum([random_.randrange(4) for _ in range(6)])
            rows.append(counts)
        for bucket, bound in enumerate(("0.1", "0.5", "1", "2.5", "10", "+Inf")):
            labels = tuple(sorted({"__name__": "lat_bucket", "job": job, "le": bound}.items()))
            found[labels] = [((start_s + 15 * index) * 1000, float(row[bucket])) for index, row in enumerate(rows)]
    return found


def _queries() -> list[str]:
    temp, req, limit, bucket = "temp", "req_total", "limit", "lat_bucket"
    selectors = [
        req, 'req_total{job="a"}', temp, 'temp{inst=~"1|2"}', 'temp{inst!~"1|2"}', 'temp{job!="a"}', limit, "sparse",
        'temp{nope=""}',
    ]  # fmt: skip
    queries = ['{__name__=~"te.p|lim.*"}', 'sum({__name__=~"te.p|lim.*"})', 'abs({__name__=~"te.p|lim.*"})']
    for one in selectors:
        queries += [
            one, f"{one} offset 1m", f"{one} offset -90s", f"-{one}", f"abs({one})", f"clamp_min({one}, 2)",
            f"clamp_max({one}, time() / 1e9)", f"clamp({one}, -1, 1)", f"clamp({one}, 2, 1)", f"sqrt({one})",
            f"ln({one})", f"log2({one})", f"log10({one})", f"exp({one})", f"floor({one})", f"ceil({one})",
            f"{one} > 2", f"2 < {one}", f"{one} > bool 2", f"2 - {one}", f"{one} % 3", f"{one} ^ 2", f"{one} / 0",
            f"{one} == {one}", f"scalar({one})", f"vector(scalar({one}))",
        ]  # fmt: skip
        for function in (
            "rate", "irate", "increase", "delta", "avg_over_time", "min_over_time", "max_over_time", "sum_over_time",
            "count_over_time", "last_over_time",
        ):  # fmt: skip
            queries += [f"{function}({one}[{window}])" for window in ("20s", "1m", "5m", "7m30s")]
            queries.append(f"{function}({one}[2m] offset 45s)")
        queries += [f"quantile_over_time({q}, {one}[3m])" for q in ("0.5", "0.9", "-1", "2", "NaN", "0", "1")]
        groupings = ("", "by (job)", "without (inst)", "by ()", "without ()", "by (nope)", "by (__name__, job)")
        for name in ("sum", "avg", "min", "max", "count", "group"):
            queries += [f"{name} {grouping} ({one})" for grouping in groupings]
        for name in ("topk", "bottomk"):
            for k in ("1", "2", "0", "-1", "2.9", "100"):
                # Ties are in no order in Prometheus, so no raw counter here: two may hold the same number.
                queries += [f"{name} {grouping} ({k}, {one} + 0.0)" for grouping in groupings[:3] if "req" not in one]
    queries += [
        f"{temp} + {req}", f"{temp} - on(job, inst) {req}", f"{temp} * ignoring(inst) {limit}",
        f"{limit} * on(job) sum by (job) ({temp})", f"{limit} > on(job) sum by (job) ({temp})",
        f"{limit} > ignoring(inst) sum by (job) ({temp})", f"{temp} > {req}", f"{temp} > bool {req}",
        f"{temp} == bool {temp}", f"{temp} + on(inst) {req}", f"{temp} > on(job) {limit}", f"{limit} < on(job) {temp}",
        f"sum({temp}) / count({temp})", f"sum by (job) (rate({req}[5m])) / on(job) {limit}", f"{temp} / {temp}",
        f"max(0 / ({temp} - {temp}))", f"min({temp} / {temp})", "1 + 2 * 3 ^ 2", "-1^2", "2^3^2", "7 % -3", "-7 % 3",
        "1 > bool 2", "time()", "vector(3)", f"{temp} > -1 < 3", f"-{temp} ^ 2", f"sum({temp} > 100)",
        f"count({temp} > 0) > 3", f"histogram_quantile(0.9, {temp})",
    ]  # fmt: skip
    for q in ("0.5", "0.99", "0", "1", "-1", "2", "NaN"):
        queries += [
            f"histogram_quantile({q}, {bucket})", f"histogram_quantile({q}, sum by (le) (rate({bucket}[5m])))",
            f"histogram_quantile({q}, sum by (job, le) (rate({bucket}[1m])))",
            f'histogram_quantile({q}, {bucket}{{le!="+Inf"}})', f'histogram_quantile({q}, {bucket}{{le=~"0.5|.Inf"}})',
        ]  # fmt: skip
    return queries


def test_every_query_of_the_subset_gives_prometheus_numbers(server: str) -> None:
    end_s = int(time.time()) // 60 * 60 - 60
    start_s = end_s - _SPAN_S
    samples = _samples(random.Random(11), start_s)
    _write(server, samples)
    store = _store(samples)
    client = httpx2.Client(base_url=server, trust_env=False, timeout=30.0)
    differing: list[str] = []
    compared = 0
    for query in _queries():
        for start, end, step in ((start_s - 120, end_s, 37), (start_s + 600, start_s + 900, 15)):
            theirs = _asked(client, "query_range", query=query, start=start, end=end, step=step)
            ours = _answered(
                lambda query=query, start=start, end=end, step=step: promql.evaluate_range(  # type: ignore[misc]
                    query, store=store, tenant="t", start_ns=start * 10**9, end_ns=end * 10**9, step_ns=step * 10**9
                )
            )
            compared += 1
            if not _same(theirs, ours):
                differing.append(f"{query} from {start - start_s} by {step}")
        at = start_s + 1234
        theirs = _asked(client, "query", query=query, time=at)
        ours = _answered(
            lambda query=query, at=at: promql.evaluate_instant(  # type: ignore[misc]
                query, store=store, tenant="t", time_ns=at * 10**9
            )
        )
        compared += 1
        if not _same(theirs, ours):
            differing.append(f"{query} at {at - start_s}")
    assert differing == []
    assert compared > 3000


Answer = dict[Labels, list[tuple[float, float]]] | None
"""None: refused."""


def _asked(client: httpx2.Client, path: str, **parameters: object) -> Answer:
    response = client.get(f"/api/v1/{path}", params={key: str(value) for key, value in parameters.items()})
    if response.status_code in (400, 422):
        return None
    data = response.raise_for_status().json()["data"]
    if data["resultType"] == "scalar":
        return {(): [(float(data["result"][0]), float(data["result"][1]))]}
    return {
        tuple(sorted(one["metric"].items())): [(float(at), float(v)) for at, v in one.get("values") or [one["value"]]]
        for one in data["result"]
    }


def _answered(call: Callable[[], list[tuple[dict[str, str], list[tuple[int, float]]]]]) -> Answer:
    try:
        found = call()
    except QueryError:
        return None
    return {tuple(sorted(labels.items())): [(at / 1e9, value) for at, value in points] for labels, points in found}


def _same(theirs: Answer, ours: Answer) -> bool:
    if theirs is None or ours is None:
        return theirs is ours
    return theirs.keys() == ours.keys() and all(
        len(theirs[key]) == len(ours[key])
        and all(abs(a[0] - b[0]) < 1e-6 and _close(a[1], b[1]) for a, b in zip(theirs[key], ours[key], strict=True))
        for key in theirs
    )


def _close(left: float, right: float) -> bool:
    if math.isnan(left) or math.isnan(right):
        return math.isnan(left) and math.isnan(right)
    return left == right or math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-12)


def _store(samples: dict[Labels, Points]) -> DuckDbSeriesStore:
    store = DuckDbSeriesStore(None)
    for series_id, (labels, points) in enumerate(samples.items(), 1):
        own = dict(labels)
        name = own.pop("__name__")
        store.write(
            MetricBatch(
                tenant="t", series_id=np.full(len(points), series_id, np.uint64), kind=np.ones(len(points), np.uint8),
                time_ns=np.array([at_ms * 1_000_000 for at_ms, _ in points]),
                value=np.array([math.nan if value is None else value for _, value in points]),
                new_series=(SeriesDescriptor(series_id=series_id, tenant="t", name=name, labels=own),),
            )
        )  # fmt: skip
    return store


def _write(url: str, samples: dict[Labels, Points]) -> None:
    """Remote write 1.0: WriteRequest{timeseries=1{labels=1{name=1, value=2}, samples=2{value=1, timestamp=2}}}."""
    body = b"".join(
        _field(
            1,
            b"".join(_field(1, _field(1, name.encode()) + _field(2, value.encode())) for name, value in labels)
            + b"".join(
                _field(2, b"\x09" + (_STALE if value is None else struct.pack("<d", value)) + b"\x10" + _varint(at_ms))
                for at_ms, value in points
            ),
        )
        for labels, points in samples.items()
    )
    httpx2.post(
        f"{url}/api/v1/write", content=bytes(cramjam.snappy.compress_raw(body)), trust_env=False,
        headers={"content-encoding": "snappy", "content-type": "application/x-protobuf"},
    ).raise_for_status()  # fmt: skip


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)
