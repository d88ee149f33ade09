"""Artifacts on a real MinIO: one object for one content, damage, crashes, absence, rights, wrong settings."""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from minio import Minio as Client
from minio import MinioAdmin
from minio.credentials.providers import StaticProvider
from tests.servers.minio import Minio, minio
from tests.servers.process import free_port

from headspring.models.artifacts.minio_store import MinioArtifactStore
from headspring.proto.errors import BackendError, ConfigError, PlatformError, Unavailable

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

_MIB = 1024 * 1024
_WRONG = "not-the-secret-key"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with minio(tmp_path_factory.mktemp("minio")) as started:
        yield started


@pytest.fixture
def bucket() -> str:
    return f"b-{secrets.token_hex(8)}"


@pytest.fixture
def store(server: Minio, bucket: str) -> Iterator[MinioArtifactStore]:
    with closing(opened(server, bucket)) as store:
        yield store


def opened(server: Minio, bucket: str) -> MinioArtifactStore:
    return MinioArtifactStore(server.url, user=server.user, password=server.password, bucket=bucket)


def client(server: Minio) -> Client:
    return Client(server.address, access_key=server.user, secret_key=server.password, secure=False, region="us-east-1")


def versions(server: Minio, bucket: str, digest: str) -> int:
    """Versions of an artifact's object."""
    found = client(server).list_objects(
        bucket, prefix=f"headspring/{digest[:2]}/", recursive=True, include_version=True
    )
    return sum(str(one.object_name).endswith(digest) for one in found)


def place(server: Minio, bucket: str, digest: str) -> Path:
    """Where the server keeps the object."""
    return server.data / bucket / "headspring" / digest[:2] / digest


@pytest.mark.parametrize("size", [1000, 40 * _MIB], ids=["one request", "in parts"])
def test_writers_at_once_make_one_object_of_one_version(server: Minio, bucket: str, size: int) -> None:
    content = os.urandom(size)
    digest = hashlib.sha256(content).hexdigest()
    stores = [opened(server, bucket) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda store: store.put(content), stores)) == {digest}
        assert set(pool.map(lambda store: store.get(digest) == content, stores)) == {True}
    assert stores[0].put(content) == digest
    assert versions(server, bucket, digest) == 1
    for store in stores:
        store.close()


def test_the_bucket_is_made_with_versioning(server: Minio, store: MinioArtifactStore, bucket: str) -> None:
    assert client(server).get_bucket_versioning(bucket).status == "Enabled"
    store.ping()


def test_a_bucket_without_versioning_is_taken_as_it_is(
    server: Minio, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    client(server).make_bucket(bucket)
    with closing(opened(server, bucket)) as store:
        assert store.get(store.put(b"model")) == b"model"
    assert "bucket has no versioning" in caplog.text
    assert client(server).get_bucket_versioning(bucket).status != "Enabled"


def test_what_is_not_ours_in_the_bucket_is_left_alone(server: Minio, store: MinioArtifactStore, bucket: str) -> None:
    client(server).put_object(bucket, "else/ab/" + "ab" * 32, io.BytesIO(b"theirs"), 6)
    client(server).put_object(bucket, "headspring/readme", io.BytesIO(b"theirs"), 6)
    digest = store.put(b"ours")
    assert list(store.digests()) == [digest]


def test_an_object_with_other_content_is_refused_and_can_be_put_again(
    server: Minio, store: MinioArtifactStore, bucket: str
) -> None:
    digest = store.put(b"model")
    client(server).put_object(bucket, f"headspring/{digest[:2]}/{digest}", io.BytesIO(b"modem"), 5)
    with pytest.raises(BackendError, match="damaged: its content has digest"):
        store.get(digest)
    assert store.has(digest)
    assert store.put(b"model") == digest
    assert store.get(digest) == b"model"
    assert versions(server, bucket, digest) == 3  # the damaged one can still be looked at


@pytest.mark.parametrize("size", [1000, 3 * _MIB], ids=["small", "large"])
def test_damage_on_the_servers_disk_is_never_read_as_content(
    server: Minio, store: MinioArtifactStore, bucket: str, size: int
) -> None:
    content = os.urandom(size)
    digest = store.put(content)
    # Small ones lie in the object's metadata, large ones beside it.
    files = [one for one in place(server, bucket, digest).rglob("*") if one.is_file()]
    file = max(files, key=lambda one: one.stat().st_size)
    held = bytearray(file.read_bytes())
    at = held.find(content[500:600])
    assert at > 0
    held[at] ^= 0xFF
    file.write_bytes(held)
    with pytest.raises(BackendError, match="damaged"):
        store.get(digest)
    assert store.put(content) == digest
    assert store.get(digest) == content


def test_a_crash_in_the_midst_of_a_put_shows_nothing_half(server: Minio, bucket: str) -> None:
    contents = [os.urandom(120 * _MIB), os.urandom(12 * _MIB)]
    for content in contents:
        digest = hashlib.sha256(content).hexdigest()
        with closing(opened(server, bucket)) as store, ThreadPoolExecutor(1) as pool:
            put = pool.submit(store.put, content)
            time.sleep(0.15)
            server.kill9()
            acknowledged = put.exception() is None
            assert acknowledged or isinstance(put.exception(), Unavailable)
            server.start()
            seen = list(store.digests())
            assert seen in ([], [digest])
            assert store.has(digest) == bool(seen)
            if acknowledged or seen:
                assert store.get(digest) == content
            assert store.put(content) == digest
            assert store.get(digest) == content
            for other in store.digests():
                client(server).remove_object(bucket, f"headspring/{other[:2]}/{other}")


def test_a_server_that_is_away_is_told_soon_and_taken_up_again(server: Minio, bucket: str) -> None:
    with closing(opened(server, bucket)) as store:
        digest = store.put(b"model")
        server.kill9()
        for call in (
            lambda: store.put(b"other"), lambda: store.get(digest), lambda: store.has(digest),
            lambda: list(store.digests()), store.ping,
        ):  # fmt: skip
            started = time.monotonic()
            with pytest.raises(Unavailable, match=f"S3 at {server.url} is away: .*[Cc]onnection"):
                call()
            assert time.monotonic() - started < 10
        late = MinioArtifactStore(
            server.url, user=server.user, password=server.password, bucket=bucket, must_answer=False
        )
        server.start()
        for one in (store, late):
            one.ping()
            assert one.get(digest) == b"model"
        late.close()


def test_a_server_that_hangs_is_given_up(server: Minio, store: MinioArtifactStore) -> None:
    digest = store.put(b"model")
    os.kill(server.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(Unavailable):
            store.get(digest)
        assert time.monotonic() - started < 45
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert store.get(digest) == b"model"


def told(url: str, *, user: str = "somebody", password: str = _WRONG, bucket: str = "models") -> str:
    with pytest.raises(ConfigError) as raised:
        MinioArtifactStore(url, user=user, password=password, bucket=bucket)
    words = str(raised.value)
    assert "\n" not in words
    assert _WRONG not in words
    return words


def test_wrong_settings_are_told_at_the_start(server: Minio, bucket: str) -> None:
    closed = f"http://127.0.0.1:{free_port()}"
    started = time.monotonic()
    assert told(closed).startswith(f"no S3 answers at minio_url {closed} (")
    assert time.monotonic() - started < 10
    assert "no S3 answers at minio_url http://no.such.host.invalid:9000" in told("http://no.such.host.invalid:9000")
    assert "knows no minio_user 'somebody'" in told(server.url)
    assert "minio_password is wrong" in told(server.url, user=server.user)
    assert "minio_user or minio_password is empty" in told(server.url, password="")
    good = {"user": server.user, "password": server.password}
    assert "minio_bucket 'No' cannot be used" in told(server.url, **good, bucket="No")
    assert "wanted http[s]://HOST:PORT" in told("s3://models")
    assert "wanted http[s]://HOST:PORT" in told(f"{server.url}/models")
    assert "holds a user or a password" in told(f"http://me:{_WRONG}@127.0.0.1:9000")
    assert "minio_url cannot be read" in told("http://127.0.0.1:port")
    assert "cannot be spoken to with TLS" in told(f"https://{server.address}", **good)
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        assert "is no S3" in told(f"http://127.0.0.1:{web.server_port}")
        web.shutdown()


def test_missing_permissions_are_told_at_the_start(server: Minio, bucket: str, tmp_path: Path) -> None:
    admin = MinioAdmin(endpoint=server.address, credentials=StaticProvider(server.user, server.password), secure=False)
    rights = {
        "lister": ["s3:ListBucket"],
        "reader": ["s3:ListBucket", "s3:GetObject"],
        "writer": ["s3:ListBucket", "s3:GetObject", "s3:PutObject"],
    }
    for user, actions in rights.items():
        statement = {
            "Effect": "Allow", "Action": actions, "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
        }  # fmt: skip
        policy = tmp_path / f"{user}.json"
        policy.write_text(json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
        admin.user_add(user, _WRONG)
        admin.policy_add(user, str(policy))
        admin.attach_policy([user], user=user)
    words = told(server.url, user="writer", bucket=bucket)
    assert f"has no bucket {bucket!r} and minio_user 'writer' may not make it" in words
    opened(server, bucket).close()
    for user in ("lister", "reader"):
        assert f"minio_user {user!r} lacks permissions on bucket {bucket!r}" in told(
            server.url, user=user, bucket=bucket
        )
    with closing(MinioArtifactStore(server.url, user="writer", password=_WRONG, bucket=bucket)) as store:
        digest = store.put(b"model")
        assert store.get(digest) == b"model"
        # Rights may go, and come back, under a running process.
        admin.detach_policy(["writer"], user="writer")
        with pytest.raises(PlatformError, match="does not let minio_user 'writer' do this") as raised:
            store.get(digest)
        assert raised.value.retryable
        assert _WRONG not in str(raised.value)
        admin.attach_policy(["writer"], user="writer")
        assert store.get(digest) == b"model"
