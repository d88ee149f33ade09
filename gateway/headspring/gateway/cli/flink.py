"""`headspring flink`: the windows on Flink, submitted, watched, upgraded and stopped."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headspring.gateway.cli.output import Format, show

if TYPE_CHECKING:
    from headspring.streaming.engine.flink.rest import FlinkRest
    from headspring.streaming.engine.flink.sql import WindowJob

app = typer.Typer(
    help="Windows on Flink, where the setting `windows` is flink.", no_args_is_help=True,
    epilog="Example: headspring flink status --url http://127.0.0.1:8081",
)  # fmt: skip

Url = Annotated[str, typer.Option(help="address of Flink's JobManager; else the setting flink_url")]
Environment = Annotated[
    Path, typer.Option(envvar="HEADSPRING_FLINK_ENVIRONMENT", help="Flink's own, see streaming/flink/README.md")
]
File = Annotated[Path | None, typer.Option("--file", "--config", help="settings file, TOML")]
Folder = Annotated[str, typer.Option(help="address of the folder the savepoint goes into; empty: the cluster's own")]
Output = Annotated[Format, typer.Option("-o", "--output", help="table, json or yaml")]
Parallelism = Annotated[int, typer.Option(help="tasks that share the work; as many slots are needed")]
Checkpoint = Annotated[
    float, typer.Option("--checkpoint-s", help="seconds between checkpoints; exactly-once features wait for one")
]
Guarantee = Annotated[str, typer.Option(help="exactly-once, or at-least-once: sooner, some twice after a failure")]
Clock = Annotated[str, typer.Option(help="what moves time: received, or event")]
_ENVIRONMENT = Path(".flink")


@app.command(epilog="Example: headspring flink submit --file headspring.toml --environment .flink --parallelism 2")
def submit(
    url: Url = "",
    environment: Environment = _ENVIRONMENT,
    file: File = None,
    restore: Annotated[
        str, typer.Option("--from", help="savepoint or checkpoint to go on from; of a folder of them, the newest")
    ] = "",
    parallelism: Parallelism = 1,
    checkpoint_s: Checkpoint = 2.0,
    guarantee: Guarantee = "exactly-once",
    clock: Clock = "received",
    output: Output = Format.TABLE,
) -> None:
    """Starts the windows and waits until they run."""
    from headspring.streaming.engine.flink import submit as flink
    from headspring.streaming.engine.flink.rest import FlinkRest

    job = _job(file, parallelism, checkpoint_s, guarantee, clock)
    _check_kafka(job, file)
    with FlinkRest(_url(url, file)) as rest:
        job_id = flink.submit(job, rest, flink.Environment(environment), restore=restore)
        _say(f"submitted as {job_id}")
        show({"job": job.group, "id": job_id, "state": rest.await_running(job_id, timeout_s=120.0).state}, output)


@app.command(epilog="Example: headspring flink upgrade --file headspring.toml --parallelism 4")
def upgrade(
    url: Url = "",
    environment: Environment = _ENVIRONMENT,
    file: File = None,
    folder: Folder = "",
    parallelism: Parallelism = 1,
    checkpoint_s: Checkpoint = 2.0,
    guarantee: Guarantee = "exactly-once",
    clock: Clock = "received",
    output: Output = Format.TABLE,
) -> None:
    """Stops the running windows with a savepoint and starts these settings and this release from it."""
    from headspring.streaming.engine.flink import submit as flink
    from headspring.streaming.engine.flink.rest import FlinkRest

    job = _job(file, parallelism, checkpoint_s, guarantee, clock)
    _check_kafka(job, file)
    with FlinkRest(_url(url, file)) as rest:
        job_id, savepoint = flink.upgrade(job, rest, flink.Environment(environment), folder=folder)
        _say(f"submitted as {job_id} from {savepoint}")
        state = rest.await_running(job_id, timeout_s=120.0).state
        show({"job": job.group, "id": job_id, "state": state, "savepoint": savepoint}, output)


@app.command(epilog="Example: headspring flink savepoint --folder s3://backups/flink")
def savepoint(url: Url = "", file: File = None, folder: Folder = "", output: Output = Format.TABLE) -> None:
    """Takes a savepoint while the windows go on."""
    with _rest(url, file) as rest:
        show({"savepoint": rest.savepoint(rest.find(_job(file).group), folder)}, output)


@app.command(epilog="Example: headspring flink status -o json")
def status(url: Url = "", file: File = None, output: Output = Format.TABLE) -> None:
    """What the windows do, their newest checkpoint, and what they counted since their last start."""
    with _rest(url, file) as rest:
        job_id = rest.find(_job(file).group)
        job, checkpoints = rest.job(job_id), rest.checkpoints(job_id)
        show(
            {
                "job": job.name,
                "id": job_id,
                "state": job.state if job.running or job.state != "RUNNING" else "DEPLOYING",
                "last failure": rest.failure(job_id) or "none",
                "checkpoint": checkpoints.newest or "none yet",
                "checkpoint bytes": checkpoints.bytes,
                "checkpoint ms": checkpoints.took_ms,
                "restored from": checkpoints.restored or "nothing",
                **rest.counters(job_id),
            },
            output,
        )


@app.command(epilog="Example: headspring flink stop --folder file:///var/lib/flink/savepoints")
def stop(url: Url = "", file: File = None, folder: Folder = "", output: Output = Format.TABLE) -> None:
    """Ends the windows with a savepoint, from which `submit --from` goes on."""
    with _rest(url, file) as rest:
        show({"savepoint": rest.stop(rest.find(_job(file).group), folder)}, output)


def _job(
    file: Path | None, parallelism: int = 1, checkpoint_s: float = 2.0, guarantee: str = "exactly-once",
    clock: str = "received",
) -> WindowJob:  # fmt: skip
    """The job of an installation: what it has in common with the other roles comes from its settings."""
    from headspring.gateway.runtime.config import resolve
    from headspring.streaming.engine.flink.sql import WindowJob
    from headspring.streaming.log.kafka.connection import KafkaConnection

    settings = resolve(file=file)
    signs_in = settings.kafka_security.startswith("SASL")
    return WindowJob(
        kafka=KafkaConnection(
            settings.kafka, security_protocol=settings.kafka_security,
            sasl_mechanism=settings.kafka_mechanism if signs_in else "",
            username=settings.kafka_user, password=settings.kafka_password, ca_file=settings.kafka_ca,
        ),
        prefix=settings.kafka_prefix, window_s=settings.window_s, pane_s=settings.pane_s,
        slide_s=settings.evaluate_every_s, parallelism=parallelism, checkpoint_s=checkpoint_s, guarantee=guarantee,
        clock=clock,
    )  # fmt: skip


def _check_kafka(job: WindowJob, file: Path | None) -> None:
    """Makes or checks the two topics, as roles do at their start: what is wrong is told here and not in Flink's log.

    Raises:
        ConfigError: no Kafka there, no way in, a permission or a topic that is not as it must be.
    """
    import asyncio

    from headspring.gateway.runtime.config import resolve
    from headspring.proto.clock import SystemClock
    from headspring.proto.topics import FEATURES, METRICS
    from headspring.streaming.log.kafka.log import KafkaLog

    settings = resolve(file=file)

    async def check() -> None:
        log = await KafkaLog.open(
            job.kafka, clock=SystemClock(), partitions=settings.partitions, replication=settings.replication,
            prefix=job.prefix, reads=[METRICS.name], writes=[FEATURES.name],
        )  # fmt: skip
        await log.close()

    asyncio.run(check())


def _rest(url: str, file: Path | None) -> FlinkRest:
    from headspring.streaming.engine.flink.rest import FlinkRest

    return FlinkRest(_url(url, file))


def _url(url: str, file: Path | None) -> str:
    from headspring.gateway.runtime.config import resolve

    return url or resolve(file=file).flink_url


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
