"""Intake and log as a process, without anything behind them: what `bench_intake_peer.py` measures.

Run: `python tests/benchmarks/intake_alone.py FOLDER PORT`; the API key comes in HEADSPRING_BOOTSTRAP_KEY. Receiver,
authentication, limits, registry, scanner and the log that syncs before it answers are the platform's own.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from headspring.gateway.auth.keys import KeyStore
from headspring.gateway.auth.requests import Authenticator
from headspring.ingestion.admit.limits import Limits
from headspring.ingestion.admit.registry import SeriesRegistry
from headspring.ingestion.pipeline import Intake
from headspring.ingestion.receive.http import Receive, Scope, Send, intake_app
from headspring.proto.clock import SystemClock
from headspring.streaming.log.segments import SegmentLog


async def serve(folder: Path, port: int) -> None:
    """Until SIGTERM."""
    clock, limits = SystemClock(), Limits()
    keys = KeyStore(folder, clock=clock)
    keys.bootstrap(os.environ["HEADSPRING_BOOTSTRAP_KEY"])
    log = await SegmentLog.open(folder / "log", clock=clock)
    registry = SeriesRegistry(key=secrets.token_bytes(16), limits=limits)
    intake = Intake(log, clock=clock, limits=limits, registry=registry)
    intake.warm()
    inner = intake_app(intake, authenticate=Authenticator(keys).tenant_for_intake)

    async def app(scope: Scope, receive: Receive, send: Send) -> Any:
        if scope["type"] == "http" and scope["path"] == "/health":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await inner(scope, receive, send)

    # As the platform serves it: gateway/runtime/serve.py.
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, log_level="warning", access_log=False, lifespan="off", http="httptools"
    )
    await uvicorn.Server(config).serve()
    await log.close()
    keys.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
