"""Whether the windows on Flink go on: asked every few seconds by the roles that tell people what is degraded."""

from __future__ import annotations

from headspring.proto.clock import Clock
from headspring.proto.errors import Unavailable
from headspring.streaming.engine.flink.rest import FlinkRest

STALE_S = 60.0
"""A job without a checkpoint for so long tells no features, though its tasks run."""
_TIMEOUT_S = 5.0


class WindowWatch:
    """Of one installation's job. Blocks; any thread, one at a time."""

    def __init__(self, url: str, job: str, *, clock: Clock) -> None:
        """
        Args:
            url: Of the JobManager.
            job: Its name, `WindowJob.group`.
        """
        self._rest = FlinkRest(url, timeout_s=_TIMEOUT_S)
        self._job = job
        self._clock = clock

    def ping(self) -> None:
        """
        Raises:
            Unavailable: no JobManager answers, not all tasks run, or checkpoints do not come.
            NotFound: the cluster has no such job; says how it is submitted.
        """
        job_id = self._rest.find(self._job)
        job = self._rest.job(job_id)
        if not job.running:
            reason = self._rest.failure(job_id) or "not all of its tasks run yet"
            raise Unavailable(f"job {job.name} at {self._rest.url} is {job.state}: {reason}")
        since_ms = max(self._rest.checkpoints(job_id).newest_ms, job.tasks_since_ms)
        age_s = self._clock.now_ns() / 1e9 - since_ms / 1e3
        if age_s > STALE_S:
            raise Unavailable(
                f"job {job.name} at {self._rest.url} runs, but has had no checkpoint for {age_s:.0f} s; its features "
                "are told with one: see what Flink says of the job's checkpoints"
            )

    def close(self) -> None:
        self._rest.close()
