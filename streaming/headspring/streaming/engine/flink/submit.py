"""Runs the job script in Flink's own environment: submits the window job, and replaces it by a newer one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from headspring.proto.errors import ConfigError, Conflict, NotFound, Rejected, Unavailable
from headspring.streaming.engine.flink.rest import FlinkRest
from headspring.streaming.engine.flink.sql import WindowJob, payload

_TIMEOUT_S = 180.0
_ERROR = re.compile(r"[A-Za-z_][\w.]*(Error|Exception)(: |$)")
_HEAP = "256m"
"""Of the JVM that plans the job and hands it over."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A Python environment with PyFlink, and our jars and job script in its folder `headspring/`.

    Raises:
        ConfigError: it is not there, or not complete.
    """

    folder: Path

    def __post_init__(self) -> None:
        wanted = "see streaming/flink/README.md for how it is made"
        if not self.python.exists():
            raise ConfigError(f"flink environment {self.folder} has no bin/python; {wanted}")
        if not self.script.exists() or not self.jars:
            raise ConfigError(f"flink environment {self.folder} has no headspring/job.py with jars beside it; {wanted}")

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def script(self) -> Path:
        return self.folder / "headspring" / "job.py"

    @property
    def jars(self) -> tuple[Path, ...]:
        return tuple(sorted((self.folder / "headspring").glob("*.jar")))


def submit(
    job: WindowJob, rest: FlinkRest, environment: Environment, *, restore: str = "", timeout_s: float = _TIMEOUT_S
) -> str:
    """Starts the job; its id. Returns when Flink has taken it: `FlinkRest.await_running` tells when it works.

    Args:
        restore: Address of a savepoint or retained checkpoint to go on from; or of a folder of checkpoints, of
            which the newest that is complete is taken. Without it the job goes on from its group's positions.

    Raises:
        Conflict: a job of this name runs already.
        Rejected: Flink refuses it; says why.
        Unavailable: no JobManager answers.
        ConfigError: there is nothing to restore at `restore`.
    """
    _refuse_second(job, rest)
    config = {
        **_target(rest.url), "execution.attached": "false",
        **({"execution.state-recovery.path": newest(restore)} if restore else {}),
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="headspring-flink-") as logs:
        text = json.dumps(payload(job, jars=environment.jars, config=config))
        try:
            done = subprocess.run(
                [str(environment.python), str(environment.script)],
                input=text, capture_output=True, text=True, timeout=timeout_s, check=False,
                env=_surroundings(environment, logs),
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"submitting {job.group} to {rest.url} took more than {timeout_s:.0f} s") from error
    if done.returncode:
        raise Rejected(f"Flink does not take job {job.group}: {_reason(done.stderr)}")
    return str(json.loads(done.stdout.strip().splitlines()[-1])["job_id"])


def upgrade(
    job: WindowJob, rest: FlinkRest, environment: Environment, *, folder: str = "", timeout_s: float = _TIMEOUT_S
) -> tuple[str, str]:
    """Stops the running job of this name with a savepoint and starts this one from it; (job id, savepoint).

    Raises:
        NotFound: no job of this name runs.
        PlatformError: as `FlinkRest.stop` and `submit`; once the old job is stopped, the error names the savepoint.
    """
    savepoint = rest.stop(rest.find(job.group), folder, timeout_s=timeout_s)
    try:
        return submit(job, rest, environment, restore=savepoint, timeout_s=timeout_s), savepoint
    except (Rejected, Unavailable, Conflict) as error:
        raise type(error)(f"{error}; the old job is stopped: submit one with --from {savepoint}") from error


def newest(place: str) -> str:
    """The savepoint or checkpoint at `place` or, if that is a folder of checkpoints, the newest complete one in it.

    Only folders of this machine can be looked into; any other address is taken as it is.

    Raises:
        ConfigError: nothing complete is there.
    """
    parts = urlsplit(place)
    if parts.scheme not in ("", "file"):
        return place
    folder = Path(unquote(parts.path) if parts.scheme else place).resolve()
    if (folder / "_metadata").is_file():
        return folder.as_uri()
    found = [meta for pattern in ("chk-*/_metadata", "*/chk-*/_metadata") for meta in folder.glob(pattern)]
    if not found:
        raise ConfigError(
            f"{place} is no savepoint and has no complete checkpoint; wanted a folder with _metadata, or one of chk-N"
        )
    return max(found, key=lambda meta: (meta.stat().st_mtime_ns, str(meta))).parent.as_uri()


def _refuse_second(job: WindowJob, rest: FlinkRest) -> None:
    try:
        found = rest.find(job.group)
    except NotFound:
        return
    raise Conflict(
        f"job {job.group} runs already as {found} at {rest.url}; replace it with `headspring flink upgrade`, or stop it"
    )


def _target(url: str) -> dict[str, str]:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    return {
        "execution.target": "remote",
        "rest.address": parts.hostname or "",
        "rest.port": str(parts.port or (443 if secure else 80)),
        **({"security.ssl.rest.enabled": "true"} if secure else {}),
    }


def _surroundings(environment: Environment, logs: str) -> dict[str, str]:
    """Only what the script needs: nothing of our own environment's packages, no variables with secrets."""
    kept = {name: os.environ[name] for name in ("PATH", "JAVA_HOME", "HOME", "TMPDIR", "LANG") if name in os.environ}
    return {
        **kept,
        "PATH": f"{environment.folder / 'bin'}{os.pathsep}{kept.get('PATH', os.defpath)}",
        "FLINK_LOG_DIR": logs,
        "TMPDIR": logs,
        "JAVA_TOOL_OPTIONS": f"-Djava.io.tmpdir={logs} -Xmx{_HEAP} -XX:+UseSerialGC -XX:TieredStopAtLevel=1",
    }


def _reason(stderr: str) -> str:
    """What the script says went wrong: the innermost cause of the Java trace, else the error of Python's."""
    lines = [line.strip() for line in stderr.splitlines()]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    errors = [line for line in lines if _ERROR.match(line)]
    return (causes or errors or [line for line in lines if line] or ["no word of why"])[-1][:600]
