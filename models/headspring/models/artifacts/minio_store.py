"""Artifacts as objects in a bucket of MinIO or another S3: `headspring/ab/abcdef…`, the name says the content.

An object is put only if there is none (`If-None-Match: *`), so the same content put twice, or by two processes at
once, is one object of one version. S3 shows an object whole or not at all; a large one goes up in parts that nobody
sees until they are joined.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.commonconfig import ENABLED
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from minio.versioningconfig import VersioningConfig
from urllib3.exceptions import HTTPError

from headspring.models.artifacts.port import checked_digest, is_digest
from headspring.proto.errors import (
    BackendError,
    ConfigError,
    LimitExceeded,
    NotFound,
    PlatformError,
    Rejected,
    Unavailable,
)

_LOG = logging.getLogger(__name__)
_MAX_BYTES = 512 * 1024 * 1024
"""As the embedded store: this stops a runaway export, not a model."""
_PART_BYTES = 16 * 1024 * 1024
"""Larger content goes up in parts of this size; S3 takes no part below 5 MiB but the last."""
_CONNECT_S = 3.0
_READ_S = 15.0
"""Longest silence of the server in the midst of an answer."""
_CONNECTIONS = 8
_PREFIX = "headspring"
_PROBE = "probe"
_GONE = ("NoSuchKey", "NoSuchVersion", "ResourceNotFound")
_EXISTS = ("PreconditionFailed",)
_NO_CONDITIONS = ("NotImplemented", "MethodNotAllowed")
"""Answers of an S3 that knows no conditional writes: the same content is then written again, which changes nothing."""
_DENIED = ("AccessDenied", "AllAccessDisabled")
_PASSING = ("SlowDown", "RequestTimeout", "OperationAborted", "ConditionalRequestConflict")
_UNREADABLE = ("SlowDownRead",)
"""What MinIO says of an object that it finds damaged, and also while too few of its disks are there."""
_WRONG_USER = ("InvalidAccessKeyId", "InvalidClientTokenId")
_WRONG_SECRET = ("SignatureDoesNotMatch",)
_CLOCKS = ("RequestTimeTooSkewed",)


class _Http(urllib3.PoolManager):
    """Adds the condition that the client library has no word for, to calls made inside `only_if_absent`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._condition = threading.local()

    @contextmanager
    def only_if_absent(self) -> Iterator[None]:
        self._condition.holds = True
        try:
            yield
        finally:
            self._condition.holds = False

    def urlopen(  # type: ignore[override] # as PoolManager itself overrides it
        self, method: str, url: str, redirect: bool = True, **options: Any
    ) -> Any:
        # Of an upload in parts the condition belongs to the joining at its end.
        whole = method == "PUT" and "partNumber=" not in url
        joining = method == "POST" and "uploadId=" in url
        if (whole or joining) and getattr(self._condition, "holds", False):
            options["headers"] = {**options["headers"], "If-None-Match": "*"}
        return super().urlopen(method, url, redirect, **options)


class MinioArtifactStore:
    """`ArtifactStore` (see the port for the contract) in a bucket."""

    def __init__(
        self, url: str, *, user: str, password: str, bucket: str, prefix: str = _PREFIX, region: str = "us-east-1",
        ca_file: str = "", max_bytes: int = _MAX_BYTES, must_answer: bool = True,
    ) -> None:  # fmt: skip
        """
        Args:
            bucket: Made, with versioning, when it is missing and the user may.
            prefix: Before every name, so that a bucket can be shared.
            ca_file: PEM file of the authority that signed the server's certificate; "": the system's.
            must_answer: False lets a process start while the server is away. A server that answers and cannot be
                used is an error all the same.

        Raises:
            ConfigError: wrong address, user, password or bucket, or a permission is missing; says which.
        """
        self._bucket = bucket
        self._prefix = prefix.strip("/")
        self._user = user
        self._max_bytes = max_bytes
        self._where, address, secure = _checked(url)
        if not user or not password:
            raise ConfigError("minio_user or minio_password is empty; wanted the access key and the secret key")
        retries = urllib3.Retry(
            # One more try where a connection of the pool has gone stale; who called has a back-off of its own.
            total=2, connect=1, read=1, redirect=0, status=1, other=0, backoff_factor=0.2,
            status_forcelist=(502, 504), allowed_methods=None, raise_on_status=False, respect_retry_after_header=False,
        )  # fmt: skip
        options = {"ca_certs": ca_file} if ca_file else {}
        self._http = _Http(
            timeout=urllib3.Timeout(connect=_CONNECT_S, read=_READ_S), maxsize=_CONNECTIONS, retries=retries,
            cert_reqs="CERT_REQUIRED", **options,
        )  # fmt: skip
        try:
            self._client = Minio(
                address, access_key=user, secret_key=password, secure=secure, region=region, http_client=self._http
            )
        except ValueError as error:
            raise ConfigError(f"minio_url {self._where} cannot be used: {error}") from error
        try:
            self._prepare()
        except Unavailable as error:
            if must_answer:
                raise ConfigError(
                    f"no S3 answers at minio_url {self._where} ({error}); start the server, or correct minio_url"
                ) from error
            _LOG.warning("artifacts cannot be had until the server is back: reason=%s", error)

    def put(self, content: bytes) -> str:
        if len(content) > self._max_bytes:
            raise LimitExceeded(f"an artifact of {len(content)} bytes, at most {self._max_bytes} are taken")
        digest = hashlib.sha256(content).hexdigest()
        with self._told():
            intact = self._intact(digest)
            if intact is None:
                # Where somebody else was first, theirs counts only if it is whole.
                intact = self._upload(self._name(digest), content, only_if_absent=True) or self._intact(digest)
            if not intact:
                self._upload(self._name(digest), content)
        return digest

    def get(self, digest: str) -> bytes:
        name = self._name(checked_digest(digest))
        with self._told():
            content = self._read(name)
        if content is None:
            raise NotFound(f"no artifact {digest}")
        found = hashlib.sha256(content).hexdigest()
        if found != digest:
            raise BackendError(f"artifact {digest} is damaged: its content has digest {found}; publish the model again")
        return content

    def has(self, digest: str) -> bool:
        try:
            name = self._name(checked_digest(digest))
        except NotFound:
            return False
        with self._told():
            return self._there(name)

    def digests(self) -> Iterator[str]:
        with self._told():
            for found in self._client.list_objects(self._bucket, prefix=f"{self._prefix}/", recursive=True):
                name = str(found.object_name).rpartition("/")[2]
                if is_digest(name):
                    yield name

    def ping(self) -> None:
        """
        Raises:
            Unavailable: the server does not answer, or the bucket is gone.
        """
        with self._told():
            if not self._client.bucket_exists(self._bucket):
                raise Unavailable(f"bucket {self._bucket} is gone from S3 at {self._where}")

    def close(self) -> None:
        """Ends all connections."""
        self._http.clear()

    def _name(self, digest: str) -> str:
        return f"{self._prefix}/{digest[:2]}/{digest}"

    def _intact(self, digest: str) -> bool | None:
        """Whether the artifact is there whole; None: it is not there."""
        try:
            content = self._read(self._name(digest))
        except S3Error as error:
            if error.code in _UNREADABLE:
                return False
            raise
        return None if content is None else hashlib.sha256(content).hexdigest() == digest

    def _there(self, name: str) -> bool:
        try:
            self._client.stat_object(self._bucket, name)
        except S3Error as error:
            if error.code in _GONE:
                return False
            raise
        return True

    def _read(self, name: str) -> bytes | None:
        try:
            response = self._client.get_object(self._bucket, name)
        except S3Error as error:
            if error.code in _GONE:
                return None
            raise
        try:
            size = int(response.headers.get("content-length", 0))
            if size > self._max_bytes:
                raise BackendError(f"object {name} has {size} bytes, more than an artifact may: it is none of ours")
            return bytes(response.read())
        finally:
            response.close()
            response.release_conn()

    def _upload(self, name: str, content: bytes, *, only_if_absent: bool = False) -> bool:
        """Whether it was written; False where only_if_absent and there is something."""
        try:
            with self._http.only_if_absent() if only_if_absent else nullcontext():
                self._client.put_object(
                    self._bucket, name, io.BytesIO(content), len(content), part_size=_PART_BYTES
                )  # fmt: skip
        except S3Error as error:
            if only_if_absent and error.code in _NO_CONDITIONS:
                return self._upload(name, content)
            if only_if_absent and error.code in _EXISTS:
                return False
            raise
        return True

    def _prepare(self) -> None:
        """The bucket is there, with versioning, and may be listed, written and read.

        Raises:
            ConfigError: it cannot be used; Unavailable: the server does not answer.
        """
        probe = f"{self._prefix}/{_PROBE}"
        try:
            try:
                next(iter(self._client.list_objects(self._bucket, prefix=probe)), None)
            except S3Error as error:
                if error.code != "NoSuchBucket":
                    raise
                self._make_bucket()
            self._check_versioning()
            # One object of one version, however often it is tried: who may not write is told so before.
            self._upload(probe, b"", only_if_absent=True)
            self._read(probe)
        except (MinioException, HTTPError, ValueError) as error:
            raise self._at_start(error) from error

    def _make_bucket(self) -> None:
        try:
            self._client.make_bucket(self._bucket)
        except S3Error as error:
            if error.code == "BucketAlreadyOwnedByYou":
                return  # another process was first
            if error.code in _DENIED:
                raise ConfigError(
                    f"S3 at {self._where} has no bucket {self._bucket!r} and minio_user {self._user!r} may not make "
                    "it; make it, or grant s3:CreateBucket"
                ) from error
            raise
        self._client.set_bucket_versioning(self._bucket, VersioningConfig(ENABLED))

    def _check_versioning(self) -> None:
        try:
            status = self._client.get_bucket_versioning(self._bucket).status
        except S3Error as error:
            if error.code not in (*_DENIED, *_NO_CONDITIONS):
                raise
            return
        if status != ENABLED:
            _LOG.warning("bucket has no versioning, what is deleted in it is lost: bucket=%s", self._bucket)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (MinioException, HTTPError) as error:
            raise self._translated(error) from error

    def _translated(self, error: MinioException | HTTPError) -> PlatformError:
        """The client's error as ours; the message holds no secret."""
        if isinstance(error, HTTPError):
            return Unavailable(f"S3 at {self._where} is away: {_words(error)}")
        if isinstance(error, S3Error):
            status, code = int(error.response.status), str(error.code)
            said = f"{code}: {error.message}"
            if code in (*_DENIED, *_WRONG_USER, *_WRONG_SECRET, *_CLOCKS):
                # Keys and rights change under us: they may be put right while we wait.
                return Unavailable(
                    f"S3 at {self._where} does not let minio_user {self._user!r} do this ({said}); correct minio_user "
                    f"or minio_password, or grant it on bucket {self._bucket}", retry_after_s=10.0,
                )  # fmt: skip
            if code in _UNREADABLE:
                return Unavailable(
                    f"S3 at {self._where} cannot read an object ({said}): disks are missing, or it is damaged; bring "
                    "them back, or publish the model again"
                )
            if status >= 500 or status in (408, 409, 429) or code in _PASSING:
                return Unavailable(f"S3 at {self._where} cannot do this now ({said}); check its free disk space")
            if code == "NoSuchBucket":
                return Unavailable(f"bucket {self._bucket} is gone from S3 at {self._where}; make it again")
            return Rejected(f"S3 at {self._where} refuses this: {said}")
        if isinstance(error, ServerError) and error.status_code < 500:
            return Rejected(f"S3 at {self._where} refuses this: {error}")
        return Unavailable(f"S3 at {self._where} cannot do this now: {_words(error)}")

    def _at_start(self, error: MinioException | HTTPError | ValueError) -> PlatformError:
        """What an operator must put right is a `ConfigError` that names the setting."""
        if isinstance(error, ValueError):
            return ConfigError(f"minio_bucket {self._bucket!r} cannot be used: {error}")
        if isinstance(error, InvalidResponseError) or "ParseError" in type(error).__name__:
            return ConfigError(
                f"what answers at minio_url {self._where} is no S3 ({_words(error)}); wanted MinIO's API port, 9000 by "
                "default: correct minio_url"
            )
        if isinstance(error, HTTPError) and "SSL" in f"{error}":
            return ConfigError(
                f"minio_url {self._where} cannot be spoken to with TLS ({_words(error)}); correct its http or "
                "https, or minio_ca"
            )
        if not isinstance(error, S3Error):
            return self._translated(error)
        said = f"{error.code}: {error.message}"
        if error.code in _WRONG_USER:
            return ConfigError(f"S3 at {self._where} knows no minio_user {self._user!r}; correct minio_user")
        if error.code in _WRONG_SECRET:
            return ConfigError(
                f"S3 at {self._where} does not let minio_user {self._user!r} in: minio_password is wrong; correct it"
            )
        if error.code in _CLOCKS:
            return ConfigError(
                f"this machine's clock and that of S3 at {self._where} differ by minutes; set them right"
            )
        if error.code in _DENIED:
            return ConfigError(
                f"minio_user {self._user!r} lacks permissions on bucket {self._bucket!r} of S3 at {self._where}; grant "
                f"s3:ListBucket on it, and s3:GetObject and s3:PutObject below {self._prefix}/"
            )
        if error.code in ("InvalidBucketName", "AuthorizationHeaderMalformed", "BucketAlreadyExists"):
            return ConfigError(f"minio_bucket {self._bucket!r} cannot be used at {self._where} ({said})")
        return self._translated(error)


def _checked(url: str) -> tuple[str, str, bool]:
    """The address for messages, `host:port` for the client, and whether it is TLS."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"minio_url cannot be read ({error}); wanted http[s]://HOST:PORT") from error
    if parts.username is not None or parts.password is not None:
        raise ConfigError("minio_url holds a user or a password; give them as minio_user and minio_password")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ConfigError(f"minio_url is {url!r}; wanted http[s]://HOST:PORT")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    address = f"{host}:{port}" if port else host
    return f"{parts.scheme}://{address}", address, parts.scheme == "https"


def _words(error: Exception) -> str:
    """The error's text in one line, without the client's book-keeping."""
    reason = getattr(error, "reason", None) or error
    text = " ".join(str(reason).split())
    return re.sub(r"^<?[\w.]+(\(.*?\)| object at 0x\w+)?>?: ", "", text)[:300]
