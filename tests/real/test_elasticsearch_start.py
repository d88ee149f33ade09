"""A document store that cannot start with what it was given says so in one line; one that can makes what it needs."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from elasticsearch import Elasticsearch as Client
from tests.servers.door import Answer, Request, door
from tests.servers.elasticsearch import Elasticsearch, elasticsearch
from tests.servers.process import free_port

from headspring.knowledge.documents.elasticsearch.settings import ElasticsearchSettings
from headspring.knowledge.documents.elasticsearch.store import ElasticsearchDocumentStore
from headspring.knowledge.testing.documents import alert, incident, logs
from headspring.proto.errors import ConfigError, Unavailable

pytestmark = pytest.mark.real
PRODUCT = {"x-elastic-product": "Elasticsearch"}
SECRET = "s3cret-of-the-tests"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elasticsearch]:
    with elasticsearch(tmp_path_factory.mktemp("elasticsearch")) as node:
        yield node


def told(url: str, **settings: Any) -> str:
    """The one line that a start with these settings ends in."""
    started = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        ElasticsearchDocumentStore(ElasticsearchSettings(**{"urls": (url,), "read_timeout_s": 20.0, **settings}))
    line = str(caught.value)
    assert "\n" not in line
    assert SECRET not in line
    assert len(line) < 700
    assert time.monotonic() - started < 30
    return line


def refuses(status: int, kind: str, reason: str) -> Answer:
    """As a server with security says it."""
    cause = {"type": kind, "reason": reason}
    return Answer(status, {"error": {"root_cause": [cause], **cause}, "status": status}, PRODUCT)


def version(number: str) -> Callable[[Request], Answer]:
    """A server of that version, which refuses to be asked for another one's answers."""

    def keep(request: Request) -> Answer:
        if "compatible-with" in request.headers.get("accept", ""):
            return refuses(406, "media_type_header_exception", "Invalid media-type value on headers [Accept]")
        return Answer(200, {"version": {"number": number}, "tagline": "You Know, for Search"}, PRODUCT)

    return keep


def test_nothing_at_the_address() -> None:
    port = free_port()
    assert told(f"http://127.0.0.1:{port}") == (
        f"elasticsearch_url: nothing answers at http://127.0.0.1:{port}: Connection refused; start it, or correct the "
        "address"
    )


def test_no_such_host() -> None:
    line = told("http://no-such-host.invalid:9200")
    assert line.startswith("elasticsearch_url: nothing answers at http://no-such-host.invalid:9200: ")


@pytest.mark.parametrize("number", ["7.17.28", "9.1.0", "6.8.0"])
def test_another_line_of_versions(number: str) -> None:
    with door(version(number)) as url:
        assert told(url) == (
            f"elasticsearch_url: Elasticsearch {number} answers at {url}; wanted version 8: point it at a server of "
            "that line"
        )


def test_something_else_answers() -> None:
    with door(lambda request: Answer(200, {"hello": "world"})) as url:
        assert told(url) == (f"elasticsearch_url: what answers at {url} is not Elasticsearch; wanted Elasticsearch 8")
    with door(lambda request: Answer(404, {"detail": "no such page"})) as url:
        assert told(url).startswith(f"elasticsearch_url: what answers at {url} does not work as Elasticsearch 8 (404)")


def test_a_refused_sign_in_and_both_ways_to_sign_in(server: Elasticsearch) -> None:
    password = base64.b64encode(f"headspring:{SECRET}".encode()).decode()

    def keep(request: Request) -> Answer | None:
        if request.headers.get("authorization") in (f"Basic {password}", f"ApiKey {SECRET}"):
            return None
        return refuses(401, "security_exception", "unable to authenticate user [headspring] for REST request [/]")

    with door(keep, behind=server.url) as url:
        line = told(url, user="headspring", password="wrong")
        assert line == (
            f"elasticsearch_user: Elasticsearch at {url} refuses the sign-in: unable to authenticate user [headspring] "
            "for REST request [/]; check elasticsearch_user and elasticsearch_password, or elasticsearch_api_key"
        )
        assert "refuses the sign-in" in told(url)
        assert "refuses the sign-in" in told(url, api_key="wrong")
        ways: list[dict[str, Any]] = [{"user": "headspring", "password": SECRET}, {"api_key": SECRET}]
        for way in ways:
            settings = ElasticsearchSettings(urls=(url,), read_timeout_s=20.0, **way)
            assert SECRET not in repr(settings)
            store = ElasticsearchDocumentStore(settings)
            store.put_all([incident("in-1"), logs("line")])
            assert store.incident("t", "in-1") is not None
            store.close()


@pytest.mark.parametrize("forbidden", ["/_index_template", "/_bulk", "/_search", "-incidents-000001"])
def test_a_missing_right_is_told_at_the_start(server: Elasticsearch, forbidden: str) -> None:
    reason = f"action [{forbidden}] is unauthorized for user [headspring]"

    def keep(request: Request) -> Answer | None:
        return refuses(403, "security_exception", reason) if forbidden in request.path else None

    with door(keep, behind=server.url) as url:
        line = told(url, prefix=f"right{forbidden.strip('/_-')[:3]}")
        assert line.startswith(f"elasticsearch_user: a right is missing at {url}: {reason}; grant the cluster rights")


def test_a_right_to_write_that_single_documents_tell_of(server: Elasticsearch) -> None:
    def keep(request: Request) -> Answer | None:
        if not request.path.startswith("/_bulk"):
            return None
        error = {"type": "security_exception", "reason": "action [indices:data/write/bulk[s]] is unauthorized"}
        item = {"_index": "x", "_id": "-", "status": 403, "error": error}
        verbs = [verb for verb in ("delete", "index", "create") if f'"{verb}"'.encode() in request.body]
        return Answer(200, {"errors": True, "items": [{verbs[0]: item}]}, PRODUCT)

    with door(keep, behind=server.url) as url:
        assert "a right is missing" in told(url, prefix="items")
        # The same while it runs: documents wait, they are not set aside as bad.
        settings = ElasticsearchSettings(urls=(url,), prefix="items", read_timeout_s=20.0)
        store = ElasticsearchDocumentStore(settings, require=False)
        with pytest.raises(Unavailable, match="a right is missing"):
            store.put_alert(alert("al-1"))
        store.close()


def test_a_right_lost_while_it_runs_keeps_documents_waiting(server: Elasticsearch) -> None:
    lost: list[str] = []

    def keep(request: Request) -> Answer | None:
        if lost and request.path.startswith(lost[0]):
            return refuses(403, "security_exception", "not any more")
        return None

    with door(keep, behind=server.url) as url:
        store = ElasticsearchDocumentStore(ElasticsearchSettings(urls=(url,), prefix="lost", read_timeout_s=20.0))
        for path in ("/_bulk", "/lost-alerts/_mget"):
            lost[:] = [path]
            with pytest.raises(Unavailable, match="does not allow this: not any more"):
                store.put_alert(alert("al-1"))
        lost.clear()
        store.put_alert(alert("al-1"))
        store.close()


def test_tls_needs_the_authority_and_the_right_scheme(server: Elasticsearch, tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tests",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    with door(lambda request: None, behind=server.url, certificate=(certificate, key)) as url:
        line = told(url)
        assert line.startswith(f"elasticsearch_url: no TLS with {url}: ")
        assert "certificate verify failed" in line
        assert "elasticsearch_ca" in line
        plain_http = url.replace("https", "http")
        assert told(plain_http).startswith(f"elasticsearch_url: nothing answers at {plain_http}")
        store = ElasticsearchDocumentStore(
            ElasticsearchSettings(urls=(url,), ca_file=certificate, prefix="tls", read_timeout_s=20.0)
        )
        store.put_alert(alert("al-1"))
        assert store.alert("t", "al-1") is not None
        store.close()
    https = server.url.replace("http", "https")
    assert told(https).startswith(f"elasticsearch_url: no TLS with {https}: ")


def test_an_index_in_the_place_of_our_alias(server: Elasticsearch) -> None:
    with Client(server.url, request_timeout=30.0) as client:
        client.indices.create(index="taken-alerts")
    assert told(server.url, prefix="taken") == (
        "elasticsearch_prefix: taken-alerts is an index there, where we would have an alias of that name; choose "
        "another prefix, or remove the index"
    )


def test_one_of_several_nodes_is_enough(server: Elasticsearch) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    store = ElasticsearchDocumentStore(
        ElasticsearchSettings(urls=(away, server.url), prefix="several", read_timeout_s=20.0)
    )
    for number in range(10):
        store.put_alert(alert(f"al-{number}"))
    store.settle()
    assert store.counts("t")["alerts"] == 10
    store.close()


def test_another_start_changes_nothing(server: Elasticsearch) -> None:
    asked: list[str] = []

    def keep(request: Request) -> Answer | None:
        asked.append(f"{request.method} {request.path}")
        return None

    with door(keep, behind=server.url) as url:
        settings = ElasticsearchSettings(urls=(url,), prefix="again", read_timeout_s=20.0)
        ElasticsearchDocumentStore(settings).close()
        assert [line for line in asked if line.startswith("PUT")]
        asked.clear()
        ElasticsearchDocumentStore(settings).close()
        assert [line for line in asked if line.startswith(("PUT", "DELETE")) and line != "PUT /_bulk"] == []


def test_templates_follow_the_settings_and_those_of_a_newer_installation_are_left_alone(server: Elasticsearch) -> None:
    def shards() -> str:
        (found,) = client.indices.get_index_template(name="newer-logs").body["index_templates"]
        return str(found["index_template"]["template"]["settings"]["index"]["number_of_shards"])

    with Client(server.url, request_timeout=30.0) as client:
        for number in (1, 3):
            settings = ElasticsearchSettings(urls=(server.url,), prefix="newer", log_shards=number, read_timeout_s=20.0)
            ElasticsearchDocumentStore(settings).close()
            assert shards() == str(number)
        (found,) = client.indices.get_index_template(name="newer-logs").body["index_templates"]
        template = found["index_template"]
        client.indices.put_index_template(
            name="newer-logs", index_patterns=template["index_patterns"], priority=template["priority"],
            template=template["template"], meta={"schema": 99, "digest": "of another"},
        )  # fmt: skip
        settings = ElasticsearchSettings(urls=(server.url,), prefix="newer", log_shards=2, read_timeout_s=20.0)
        ElasticsearchDocumentStore(settings).close()
        assert shards() == "3"


def test_where_the_server_has_index_lifecycles_logs_get_one(server: Elasticsearch) -> None:
    """The core of the tests has none: the door plays that part and takes its settings off what it passes on."""
    policies: list[Any] = []
    named: list[Any] = []
    origins: list[int] = []

    def keep(request: Request) -> Answer | None:
        if request.path.startswith("/_xpack"):
            return Answer(200, {"features": {"ilm": {"available": True, "enabled": True}}}, PRODUCT)
        if request.path.startswith("/_ilm/policy/"):
            policies.append((request.path, request.json()["policy"]["phases"]))
            return Answer(200, {"acknowledged": True}, PRODUCT)
        if request.method == "PUT" and b"lifecycle" in request.body:
            body = request.json()
            index = body.get("template", body)["settings"]["index"]
            if "lifecycle.name" in index:
                named.append((request.path, index.pop("lifecycle.name")))
            if "lifecycle.origination_date" in index:
                origins.append(index.pop("lifecycle.origination_date"))
            request.body = json.dumps(body).encode()
        return None

    with door(keep, behind=server.url) as url:
        store = ElasticsearchDocumentStore(ElasticsearchSettings(urls=(url,), prefix="ilm", read_timeout_s=20.0))
        store.put_logs(logs("line", time_ns=3600 * 10**9))
        assert policies == [("/_ilm/policy/ilm-logs", {"delete": {"min_age": "604800s", "actions": {"delete": {}}}})]
        assert named == [("/_index_template/ilm-logs", "ilm-logs")]
        assert origins == [86_400_000]  # the end of the day that the line lies in
        store.close()
