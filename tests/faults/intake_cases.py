"""What senders of telemetry get wrong, for every route that takes it over HTTP."""

from __future__ import annotations

import gzip
import json
import zlib

import cramjam
from tests.faults.refusals import GZIP, JSON, MARK, MIB, NOBODY, PROTOBUF, SNAPPY, STRANGER, Case, export

OTLP = {"/v1/metrics": "resourceMetrics", "/v1/logs": "resourceLogs", "/v1/traces": "resourceSpans"}
WRITE, PUSH = "/api/v1/write", "/loki/api/v1/push"
METRICS, LOGS = "/api/v1/metrics/write", "/api/v1/logs/write"
ALERTS, ALERTS_V2, CHANGES = "/api/v1/alerts/ingest", "/api/v2/alerts", "/api/v1/changes"
TEXTS = (METRICS, LOGS, PUSH, ALERTS, ALERTS_V2, CHANGES)
ROUTES = (*OTLP, WRITE, *TEXTS)
LIMIT = 20 * MIB
TOO_LARGE = b" " * (LIMIT + 1)
BOMB = b"\0" * (200 * MIB)
GZIP_BOMB = gzip.compress(BOMB, 9)
"""200 KB that would be 200 MiB."""
SNAPPY_BOMB = bytes(cramjam.snappy.compress_raw(BOMB[: 64 * MIB]))
LYING_SNAPPY = b"\xff\xff\xff\xff\x0f" + b"a" * 40
"""Says that it is 4 GiB."""
GOOD = export(MARK, {1: 1.0})
DEEP = b'{"a":' * 5_000 + b"1" + b"}" * 5_000
DEEPER = b"[" * 500_000
BROKEN_JSON: tuple[tuple[str, bytes, int, tuple[str, ...]], ...] = (
    ("cut JSON", b'{"' + MARK.encode() + b'": [', 400, ("is not JSON", "line 1 column")),
    ("empty", b"", 400, ("is not JSON", "line 1 column 1")),
    ("not JSON", b"<alert/>", 400, ("is not JSON",)),
    ("NaN", b'{"a": NaN}', 400, ("holds NaN",)),
    ("Infinity", b'{"a": [-Infinity]}', 400, ("holds -Infinity",)),
    ("a number of 5000 digits", b'{"a": ' + b"9" * 5000 + b"}", 400, ("is not JSON", "digits")),
    ("not UTF-8", b'{"a": "\xff"}', 400, ("is not UTF-8", "byte 7 is 0xff")),
    ("half a surrogate pair", b'{"a": "\\ud800"}', 400, ("half of a surrogate pair",)),
    ("5000 levels", DEEP, 413, ("nested deeper than 64 levels",)),
    ("500000 open brackets", DEEPER, 413, ("nested deeper than 64 levels",)),
)


def _everywhere() -> list[Case]:
    """Size, encodings and keys are looked at before anything else, so every route answers the same."""
    found = []
    for path in ROUTES:
        kind = JSON if path in TEXTS else PROTOBUF
        plain = {**kind, **SNAPPY} if path == WRITE else kind
        found += [
            Case("without a key", path, GOOD, {**plain, **NOBODY}, 401, ("no API key", "Authorization: Bearer")),
            Case("with a wrong key", path, GOOD, {**plain, **STRANGER}, 401, ("not known here", "wanted a key")),
            Case("too large", path, TOO_LARGE, plain, 413, (str(LIMIT + 1), f"limit of {LIMIT} bytes")),
            Case("gzip bomb", path, GZIP_BOMB, {**kind, **GZIP}, 413, ("inflates to more than",)),
            Case("snappy bomb", path, SNAPPY_BOMB, {**kind, **SNAPPY}, 413, ("declares 67108864 bytes",)),
            Case("lying snappy", path, LYING_SNAPPY, {**kind, **SNAPPY}, 413, ("declares", "(45 bytes came)")),
            Case("cut gzip", path, gzip.compress(GOOD)[:-9], {**kind, **GZIP}, 400, ("gzip body of", "ends too early")),
            Case("not gzip", path, GOOD, {**kind, **GZIP}, 400, ("is not gzip",)),
            Case("zlib for gzip", path, zlib.compress(GOOD), {**kind, **GZIP}, 400, ("is not gzip",)),
            Case("not snappy", path, b"\xff" * 30, {**kind, **SNAPPY}, 400, ("is not a snappy block",)),
            Case("brotli", path, GOOD, {**kind, "content-encoding": "br"}, 415, ("'br'", "send gzip, snappy")),
        ]
    return found


def _otlp() -> list[Case]:
    found = []
    for path, field in OTLP.items():
        found += [
            Case("cut protobuf", path, GOOD[:-3], PROTOBUF, 400, ("bytes are not an OTLP",)),
            Case("noise", path, b"\xff\xfe\xfd" * 9, PROTOBUF, 400, ("27 bytes are not an OTLP",)),
            Case("JSON said to be protobuf", path, b'{"a": 1}', PROTOBUF, 400, ("8 bytes are not an OTLP",)),
            Case("protobuf said to be JSON", path, GOOD, JSON, 400, ("body is not",)),
            Case("no content type", path, GOOD, {}, 415, ("Content-Type ''", "send application/x-protobuf")),
            Case("a form", path, GOOD, {"content-type": "application/x-www-form-urlencoded"}, 415, ("is not OTLP",)),
            Case("an array", path, b"[]", JSON, 400, ("wanted a JSON object, got list",)),
            Case("a text for a list", path, json.dumps({field: MARK}).encode(), JSON, 400, ("JSON is not Export",)),
            Case("a list of numbers", path, json.dumps({field: [1, 2]}).encode(), JSON, 400, ("JSON is not Export",)),
            *(Case(name, path, body, JSON, status, words) for name, body, status, words in BROKEN_JSON),
        ]
    spans = {"resourceSpans": [{"scopeSpans": [{"spans": [{"name": MARK, "traceId": "not hex"}]}]}]}
    found.append(Case("an id that is not hex", "/v1/traces", json.dumps(spans).encode(), JSON, 400, ("wanted hex",)))
    return found


def _texts() -> list[Case]:
    found = []
    for path in TEXTS:
        found += [Case(name, path, body, JSON, status, words) for name, body, status, words in BROKEN_JSON]
        if path != METRICS:  # which takes protobuf of two kinds and so says what it wants in other words
            found.append(Case("XML", path, b"<a/>", {"content-type": "text/xml"}, 415, ("'text/xml'", JSON_TYPE)))
    return found


JSON_TYPE = "application/json"


def _shape(path: str, name: str, value: object, *words: str, status: int = 400) -> Case:
    return Case(name, path, json.dumps(value).encode(), JSON, status, words)


def _one_alert(**fields: object) -> dict[str, object]:
    return {"labels": {"alertname": MARK, "service": MARK}, **fields}


CLOUD_EVENTS = {"content-type": "application/cloudevents+json"}
EVENT = {"specversion": "1.0", "id": "1", "source": MARK}
SHAPES = [
    _shape(METRICS, "an array", [], "got an array", 'wanted {"metrics"'),
    _shape(METRICS, "another object", {MARK: 1}, f"got an object of '{MARK}'", 'wanted {"metrics"'),
    _shape(LOGS, "null", None, "got null", 'wanted {"logs"'),
    _shape(LOGS, "a number for the list", {"logs": 7}, "got an object of 'logs'", "one object for each record"),
    _shape(PUSH, "a text", MARK, "got a text", 'wanted {"streams"'),
    _shape(PUSH, "no values", {"streams": [{"stream": {}}]}, "streams[0] needs a list `values`"),
    _shape(PUSH, "a number for the time", {"streams": [{"values": [[1, MARK]]}]}, 'else than ["<ns>", "line"'),
    _shape(PUSH, "a time that is none", {"streams": [{"values": [["soon", MARK]]}]}, "timestamp 'soon'", "nanoseconds"),
    _shape(PUSH, "a label that is a number", {"streams": [{"stream": {"a": 1}, "values": []}]}, "object of texts"),
    Case("protobuf without snappy", PUSH, b"\xff" * 30, PROTOBUF, 400, ("not a snappy block",)),
    Case("noise in snappy", PUSH, bytes(cramjam.snappy.compress_raw(b"\xff" * 30)), {**PROTOBUF, **SNAPPY}, 400,
         ("30 bytes are not a Loki push request",)),
    _shape(ALERTS, "no list", {}, "got an empty object", 'list "alerts"'),
    _shape(ALERTS, "an alert that is a text", {"alerts": [MARK]}, "alerts[0]", "is not a JSON object"),
    _shape(ALERTS, "an unknown status", {"alerts": [_one_alert(status="odd")]}, "'odd', wanted firing or resolved"),
    _shape(ALERTS, "a time in words", {"alerts": [_one_alert(startsAt="soon")]}, "'soon', wanted an RFC 3339 time"),
    _shape(ALERTS, "more alerts than fit", {"alerts": [_one_alert()] * 10_001}, "10001 alerts", "limit is 10000",
           status=413),
    _shape(ALERTS_V2, "an object", {"alerts": []}, "wanted a JSON array of alerts", "got an object of 'alerts'"),
    _shape(ALERTS_V2, "no labels", [{"labels": {}}], "labels is empty", "at least alertname"),
    _shape(ALERTS_V2, "month 13", [_one_alert(startsAt="2026-13-01T00:00:00Z")], "2026-13-01", "month"),
    _shape(ALERTS_V2, "labels as a list", [{"labels": [MARK]}], "labels", "is not a JSON object"),
    _shape(CHANGES, "a number", 7, "a change is not a JSON object, got a number"),
    _shape(CHANGES, "an unknown field", {"service": MARK, "approved_by": "me"}, "'approved_by'", "known are"),
    _shape(CHANGES, "an unknown kind", {"service": MARK, "kind": "magic"}, "'magic'", "deploy"),
    _shape(CHANGES, "of nothing", {"kind": "deploy"}, 'a change needs "service"'),
    _shape(CHANGES, "a time that is true", {"service": MARK, "time": True}, "time is True, wanted an RFC 3339"),
    Case("a CloudEvent without a type", CHANGES, json.dumps(EVENT).encode(), CLOUD_EVENTS, 400, ("without type",)),
    Case("a CDEvent of a pipeline", CHANGES,
         json.dumps({**EVENT, "type": "dev.cdevents.pipelinerun.started.0.1.0"}).encode(), CLOUD_EVENTS, 400,
         ("pipelinerun", "is not about a service's change")),
    Case("remote write without snappy", WRITE, GOOD, PROTOBUF, 415, ("Content-Encoding snappy",)),
    Case("remote write 2.0", WRITE, bytes(cramjam.snappy.compress_raw(b"")),
         {**SNAPPY, "content-type": "application/x-protobuf;proto=io.prometheus.write.v2.Request"}, 415,
         ("2.0 is not supported", "prometheus.WriteRequest")),
    Case("framed snappy", WRITE, bytes(cramjam.snappy.compress(GOOD)), {**PROTOBUF, **SNAPPY}, 400, ("snappy block",)),
    Case("noise in snappy", WRITE, bytes(cramjam.snappy.compress_raw(b"\xff" * 30)), {**PROTOBUF, **SNAPPY}, 400,
         ("30 bytes are not",)),
    Case("XML", METRICS, b"<a/>", {"content-type": "text/xml"}, 415, ("wanted",)),
    Case("GET", ALERTS_V2, b"", JSON, 405, ("GET is not allowed",), method="GET"),
]  # fmt: skip

CASES = [*_everywhere(), *_otlp(), *_texts(), *SHAPES]
