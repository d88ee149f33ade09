"""What users of the API get wrong: bodies, roles, ids, queries, times, pages of lists."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.faults.refusals import GZIP, JSON, MARK, MIB, NOBODY, STRANGER, Case

DETECTION, TOPOLOGY = "/api/v1/config/detection", "/api/v1/config/topology"
EXECUTE = "/api/v1/runbooks/restart-service/execute"
APPROVE, REJECT = "/api/v1/runs/run-1/approve", "/api/v1/runs/run-1/reject"
FEEDBACK, KEYS = "/api/v1/incidents/inc-1/feedback", "/api/v1/keys"
QUERY = "/api/v1/metrics/query"
ONCE = {"idempotency-key": MARK}
LIMIT = 8 * MIB
BODIES: tuple[tuple[str, str, str], ...] = (
    ("PUT", DETECTION, "admin"), ("PUT", TOPOLOGY, "admin"), ("POST", KEYS, "admin"), ("POST", EXECUTE, "operator"),
    ("POST", APPROVE, "operator"), ("POST", REJECT, "operator"), ("POST", FEEDBACK, "operator"),
)  # fmt: skip
"""Every route of the API that has a body, and the role it asks for."""

_BROKEN: tuple[tuple[str, bytes, Mapping[str, str], int, tuple[str, ...]], ...] = (
    ("cut JSON", b'{"a":', JSON, 400, ("is not JSON", "line 1 column 6")),
    ("NaN", b'{"a": NaN}', JSON, 400, ("holds NaN",)),
    ("Infinity", b'{"a": Infinity}', JSON, 400, ("holds Infinity",)),
    ("a number of 5000 digits", b'{"a": ' + b"9" * 5000 + b"}", JSON, 400, ("is not JSON", "digits")),
    ("not UTF-8", b'{"a": "\xff"}', JSON, 400, ("is not UTF-8", "0xff")),
    ("half a surrogate pair", b'{"\\ud800": 1}', JSON, 400, ("half of a surrogate pair",)),
    ("50000 levels", b'{"a":' * 50_000 + b"1" + b"}" * 50_000, JSON, 413, ("nested deeper than 32 levels",)),
    ("nothing", b"", JSON, 422, ("body", "found nothing")),
    ("an array", b"[]", JSON, 422, ("valid dictionary", "found list []")),
    ("a text", b'"x"', JSON, 422, ("valid dictionary", "found str 'x'")),
    ("no content type", b"{}", {}, 415, ("Content-Type is ''", "send application/json")),
    ("a form", b"a=1", {"content-type": "application/x-www-form-urlencoded"}, 415, ("send application/json",)),
    ("gzip", gzip.compress(b"{}"), {**JSON, **GZIP}, 415, ("'gzip'", "as it is")),
    ("too large", b" " * (LIMIT + 1), JSON, 413, (f"larger than {LIMIT} bytes",)),
    ("without a key", b"{}", {**JSON, **NOBODY}, 401, ("no API key", "Authorization: Bearer")),
    ("with a wrong key", b"{", {**JSON, **STRANGER}, 401, ("not known here", "wanted a key")),
)


def _bodies() -> list[Case]:
    return [
        Case(name, path, body, {**ONCE, **headers}, status, words, method)
        for method, path, _ in BODIES
        for name, body, headers, status, words in _BROKEN
    ]


def _case(method: str, path: str, name: str, value: object, status: int, *words: str, **headers: str) -> Case:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Case(name, path, body, {**JSON, **ONCE, **headers}, status, words, method)


def _edge(**fields: object) -> dict[str, object]:
    return {"edges": [{"caller": f"service:default/{MARK}", "callee": "service:default/b", **fields}]}


def _digest(**fields: object) -> dict[str, object]:
    return {"digest": "0123456789abcdef", **fields}


_CONTENT = [
    _case("PUT", DETECTION, "an unknown setting", {MARK: 1}, 400, f"{MARK} is no detection setting", "there are"),
    _case("PUT", DETECTION, "a text", {"latency_ratio": "x"}, 400, "latency_ratio is 'x'; wanted a finite number"),
    _case("PUT", DETECTION, "true", {"latency_ratio": True}, 400, "latency_ratio is True; wanted a finite number"),
    _case("PUT", DETECTION, "out of range", {"latency_ratio": 1e9}, 400, "1000000000.0; wanted 1 to 100"),
    _case("PUT", DETECTION, "1e999", b'{"latency_ratio": 1e999}', 400, "inf; wanted a finite number"),
    _case("PUT", DETECTION, "400 digits", b'{"latency_ratio": ' + b"9" * 400 + b"}", 400, "wanted a finite number"),
    _case("PUT", DETECTION, "a stale version", {}, 412, "changed since they were read", **{"if-match": '"old"'}),
    _case("PUT", TOPOLOGY, "no edges", {}, 422, "body.edges", "required"),
    _case("PUT", TOPOLOGY, "an unknown field", _edge(tenant=MARK), 422, "body.edges.0.tenant", "not permitted"),
    _case("PUT", TOPOLOGY, "an unknown type", _edge(type="odd"), 422, "'sync', 'async'", "found str 'odd'"),
    _case("PUT", TOPOLOGY, "a weight that is a text", _edge(weight="2"), 422, "valid number", "found str '2'"),
    _case("PUT", TOPOLOGY, "a weight of 0", _edge(weight=0), 422, "greater than 0", "found int 0"),
    _case("PUT", TOPOLOGY, "a weight without end", b'{"edges": [{"caller": "a", "callee": "b", "weight": 1e999}]}', 422,
          "less than or equal", "found float inf"),
    _case("PUT", TOPOLOGY, "no entity", _edge(callee=MARK), 400, f"'{MARK}' is not an entity id", "wanted kind:"),
    _case("PUT", TOPOLOGY, "a node that is no entity", {"nodes": [{"entity": MARK, "kind": "service"}], "edges": []},
          400, "is not an entity id"),
    _case("PUT", TOPOLOGY, "a control character", _edge(callee="service:default/a\0b"), 400, "\\x00", "printed"),
    _case("POST", KEYS, "an unknown role", {"name": MARK, "role": "king"}, 422, "'ingest'", "found str 'king'"),
    _case("POST", KEYS, "a name with a space", {"name": "a b", "role": "viewer"}, 422, "body.name", "found str 'a b'"),
    _case("POST", KEYS, "a tenant of its own", {"name": MARK, "role": "viewer", "tenant": "x"}, 422, "body.tenant"),
    _case("DELETE", f"{KEYS}/{MARK}", "an unknown key", {}, 404, f"no API key named '{MARK}'"),
    _case("POST", EXECUTE, "an id that is a number", {"incident_id": 7}, 422, "body.incident_id", "found int 7"),
    _case("POST", EXECUTE, "an unknown incident", {"incident_id": MARK}, 404, f"there is no incident {MARK}"),
    _case("POST", EXECUTE, "no idempotency key", {"incident_id": MARK}, 400, "Idempotency-Key is missing",
          **{"idempotency-key": ""}),
    _case("POST", EXECUTE, "a privileged field", {"incident_id": MARK, "approved_by": "me"}, 422, "approved_by"),
    _case("POST", f"/api/v1/runbooks/{MARK}/execute", "an unknown runbook", {"incident_id": MARK}, 404,
          f"no runbook '{MARK}'", "wanted one of"),
    _case("POST", APPROVE, "an unknown run", _digest(), 404, "there is no run run-1"),
    _case("POST", APPROVE, "no digest", {}, 422, "body.digest", "found nothing"),
    _case("POST", APPROVE, "a short digest", {"digest": "x"}, 422, "at least 8", "found str 'x'"),
    _case("POST", APPROVE, "a state of its own", _digest(state="approved"), 422, "body.state", "not permitted"),
    _case("POST", REJECT, "an unknown run", _digest(), 404, "there is no run run-1"),
    _case("POST", REJECT, "a comment that is a number", _digest(comment=1), 422, "body.comment", "found int 1"),
    _case("POST", FEEDBACK, "an unknown verdict", {"verdict": "odd"}, 422, "'right-cause'", "found str 'odd'"),
    _case("POST", FEEDBACK, "a long comment", {"verdict": "comment", "comment": "x" * 4001}, 422, "at most 4000"),
    _case("POST", FEEDBACK, "an unknown incident", {"verdict": "nuisance"}, 404, "there is no incident inc-1"),
]  # fmt: skip
CASES = [*_bodies(), *_CONTENT]


@dataclass(frozen=True, slots=True)
class Ask:
    """A bad GET and its answer."""

    name: str
    path: str
    parameters: Mapping[str, str]
    status: int
    words: tuple[str, ...]
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.path.removeprefix('/api/v1/')} {self.name}"


def _query(name: str, status: int, *words: str, **parameters: str) -> Ask:
    return Ask(name, QUERY, {"query": "healthy_ledger", **parameters}, status, words)


def _list(path: str, name: str, code: int, /, *words: str, **parameters: str) -> Ask:
    return Ask(name, f"/api/v1/{path}", parameters, code, words)


_RANGE = {"start": "1000", "end": "2000"}
ASKS = [
    Ask("no query", QUERY, {}, 422, ("query.query", "found nothing")),
    _query("empty", 422, "at least 1 character", query=""),
    _query("5000 characters", 422, "at most 4000", query="a" * 5000),
    _query("an open brace", 422, "not PromQL", query="up{"),
    _query("a function outside the subset", 422, "label_replace is not in the supported subset",
           query="label_replace(up, 'a', 'b', 'c', 'd')"),
    _query("a subquery", 422, "subqueries are not", query="max_over_time(rate(up[5m])[1h:1m])"),
    _query("an @", 422, "@ modifier is not", query="up @ 1e30"),
    _query("an unknown aggregation", 422, "quantile is not in the supported subset", query="quantile(9, up)"),
    _query("a bad regular expression", 422, "illegal regex", query='up{a=~"("}'),
    _query("1900 brackets", 422, "nested deeper than 64", query="(" * 1900 + "up" + ")" * 1900),
    _query("3900 signs", 422, "nested deeper than 64", query="-" * 3900 + "1"),
    _query("700 sums", 422, "nested deeper", query="sum(" * 700 + "up" + ")" * 700),
    _query("900 terms", 422, "nested deeper", query="+".join(["up"] * 900)),
    _query("not ASCII", 422, "unexpected character", query="ü"),
    _query("a range of ten thousand years", 422, "3650000 days", "at most 36500", query="rate(healthy_ledger[10000y])"),
    _query("an offset of ten thousand years", 422, "at most 36500", query="healthy_ledger offset 10000y"),
    _query("a range selector over a range", 422, "put it into rate()", query="healthy_ledger[5m]", **_RANGE, step="15"),
    _query("a time in words", 400, "time is 'soon'; wanted unix seconds or RFC 3339", time="soon"),
    _query("a time of NaN", 400, "time is 'nan'; wanted a time from 1970", time="nan"),
    _query("a time of 1e300", 400, "time is '1e300'; wanted a time from 1970 to 2200", time="1e300"),
    _query("a time of -1e15", 400, "wanted a time from 1970", time="-1e15"),
    _query("the year 1", 400, "'0001-01-01'", time="0001-01-01"),
    _query("the year 9999", 400, "wanted a time from 1970 to 2200", time="9999-12-31T23:59:59Z"),
    _query("a zero byte for a time", 400, "time is '\\x00'", time="\0"),
    _query("step 0", 400, "step is '0'; wanted seconds or a duration such as 15s, above 0", step="0", **_RANGE),
    _query("step -5", 400, "step is '-5'", step="-5", **_RANGE),
    _query("step inf", 400, "step is 'inf'", step="inf", **_RANGE),
    _query("step nan", 400, "step is 'nan'", step="nan", **_RANGE),
    _query("a step in words", 400, "step is 'often'", step="often", **_RANGE),
    _query("a millisecond's step", 422, "more than 11000 points", "larger step", step="1ms", **_RANGE),
    _query("fifty years by the second", 422, "more than 11000 points", start="0", end="1600000000", step="1"),
    _query("end before start", 422, "end >= start", start="2000", end="1000", step="15"),
    _query("a start in words", 400, "start is 'x'", start="x"),
    _query("an end of 1e300", 400, "end is '1e300'", end="1e300"),
    _list("incidents", "limit 0", 422, "query.limit", "greater than or equal to 1", "found str '0'", limit="0"),
    _list("incidents", "limit 201", 422, "less than or equal to 200", limit="201"),
    _list("alerts", "a limit in words", 422, "valid integer", "found str 'many'", limit="many"),
    _list("incidents", "an unknown state", 422, "'open'", "found str 'odd'", state="odd"),
    _list("alerts", "an unknown status", 422, "'firing'", "found str 'odd'", status="odd"),
    _list("logs", "severity 99", 422, "less than or equal to 24", min_severity="99"),
    _list("logs", "a text of 501", 422, "at most 500", query="x" * 501),
    _list("incidents", "a text of 201", 422, "at most 200", text="x" * 201),
    *(_list(path, f"the cursor {cursor[:8]}", status, "cursor", cursor=cursor)
      for path, status in (("incidents", 422), ("alerts", 422), ("logs", 422), ("runs", 400), ("audit", 422))
      for cursor in ("odd", "!!", "²³~x", "-1", "9" * 400, "AAAA")),
    _list("audit", "a cursor of 600", 422, "at most 512", cursor="x" * 600),
    _list(f"incidents/{MARK}", "unknown", 404, f"there is no incident {MARK}"),
    _list("incidents/%00%ff", "a zero byte", 404, "there is no incident"),
    _list("incidents/" + "x" * 20_000, "20000 letters", 404, "there is no incident"),
    _list(f"runs/{MARK}", "unknown", 404, f"there is no run {MARK}"),
    _list(f"runbooks/{MARK}/status", "unknown", 404, f"there is no runbook '{MARK}'"),
    _list(MARK, "unknown", 404, f"/api/v1/{MARK} is not served here"),
    _list("keys/x", "GET", 405, "GET is not allowed on /api/v1/keys/x", "DELETE"),
    Ask("without a key", "/api/v1/incidents", {}, 401, ("no API key",), NOBODY),
    Ask("with a wrong key", "/api/v1/incidents", {}, 401, ("not known here",), STRANGER),
]  # fmt: skip

ROLES = [
    *((method, path, role, wanted) for method, path, wanted in BODIES for role in ("ingest", "viewer")),
    *(("PUT", path, "operator", "admin") for path in (DETECTION, TOPOLOGY)), ("POST", KEYS, "operator", "admin"),
    ("GET", "/api/v1/audit", "operator", "admin"), ("GET", "/api/v1/keys", "viewer", "admin"),
    ("DELETE", "/api/v1/keys/bootstrap", "operator", "admin"),
    *(("GET", f"/api/v1/{path}", "ingest", "viewer") for path in
      ("incidents", "alerts", "logs", "runs", "runbooks", "topology", "services", "health", "events",
       "metrics/query?query=up", "config/detection")),
]  # fmt: skip
"""Method, path, the role that asks, the role it takes."""
GOOD_BODIES: Mapping[str, object] = {
    DETECTION: {}, TOPOLOGY: {"edges": []}, KEYS: {"name": MARK, "role": "admin"}, EXECUTE: {"incident_id": MARK},
    APPROVE: _digest(), REJECT: _digest(), FEEDBACK: {"verdict": "nuisance"},
}  # fmt: skip
