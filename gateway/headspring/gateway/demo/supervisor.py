"""Runs the demo shop and answers two small APIs: `/simulate/…` breaks it, `/services/…` operates it.

The second is what runbooks call (restart, roll back, scale); it honours `Idempotency-Key`. Loopback only.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from headspring.gateway.demo import estate
from headspring.gateway.demo.estate_runner import MAX_REPLICAS, Shop
from headspring.gateway.demo.ledger import Ledger
from headspring.gateway.demo.processes import Export
from headspring.proto.errors import BackendError, Conflict, NotFound, PlatformError, Rejected

Name = Literal["storefront", "checkout", "catalogue", "inventory", "payment", "orders-db"]
"""As `estate.NAMES`; spelled out so that a wrong name is answered with the right ones."""
_STATUS: tuple[tuple[type[PlatformError], int], ...] = (
    (NotFound, 404), (Conflict, 409), (Rejected, 422), (BackendError, 503),
)  # fmt: skip


Key = Annotated[str, Header(alias="idempotency-key")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Delay(_Body):
    """Every request of a service takes longer."""

    service: Name
    delay_ms: float = Field(default=600.0, gt=0, le=10_000)


class Error(_Body):
    """A share of a service's requests fails."""

    service: Name
    ratio: float = Field(default=0.5, gt=0, le=1)


class Crash(_Body):
    """The service's process is killed."""

    service: Name


class Deploy(_Body):
    """A new version of a service, by default a bad one."""

    service: Name
    version: str = Field(default=estate.BAD_VERSION, min_length=1, max_length=60, pattern=r"^[A-Za-z0-9._-]+$")


class Rollback(_Body):
    version: str = Field(default="", max_length=60, pattern=r"^[A-Za-z0-9._-]*$")


class Scale(_Body):
    replicas: int = Field(ge=1, le=MAX_REPLICAS)


def make_api(shop: Shop, ledger: Ledger) -> FastAPI:
    """Both APIs as one application."""
    api = FastAPI(title="Demo shop supervisor", docs_url=None, redoc_url=None)
    operations: list[dict[str, Any]] = []

    def operate(key: str, request: Any, effect: Callable[[], dict[str, Any]]) -> JSONResponse:
        answer, replayed = ledger.once(key, request, effect)
        if not replayed:
            operations.append(answer)
            del operations[:-100]
        return JSONResponse(answer, headers={"idempotent-replayed": "true"} if replayed else None)

    @api.exception_handler(PlatformError)
    def _known(request: Request, error: Exception) -> JSONResponse:
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
        return _problem(status, str(error))

    @api.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: Exception) -> JSONResponse:
        found = error.errors() if isinstance(error, RequestValidationError) else []
        wrong = [
            f"{'.'.join(map(str, item['loc'][1:])) or 'body'}: {item['msg']}; found {repr(item.get('input'))[:80]}"
            for item in found[:5]
        ]
        return _problem(422, "; ".join(wrong))

    @api.exception_handler(HTTPException)
    def _refused(request: Request, error: Exception) -> JSONResponse:
        status, detail = (error.status_code, str(error.detail)) if isinstance(error, HTTPException) else (500, "")
        if status == 400:  # nested too deeply, not UTF-8, numbers without end
            detail = "the body is no JSON that can be read; wanted a small object"
        return _problem(status, detail)

    @api.post("/simulate/delay")
    def delay(body: Delay) -> dict[str, Any]:
        shop.set_faults(body.service, delay_s=body.delay_ms / 1000)
        return shop.status()

    @api.post("/simulate/error")
    def error(body: Error) -> dict[str, Any]:
        shop.set_faults(body.service, error_ratio=body.ratio)
        return shop.status()

    @api.post("/simulate/crash")
    def crash(body: Crash) -> dict[str, Any]:
        shop.crash(body.service)
        return shop.status()

    @api.post("/simulate/deploy")
    def deploy(body: Deploy) -> dict[str, Any]:
        shop.deploy(body.service, body.version)
        return shop.status()

    @api.post("/simulate/clear")
    def clear() -> dict[str, Any]:
        shop.clear()
        return shop.status()

    @api.post("/simulate/{fault}")
    def unknown_fault(fault: str) -> JSONResponse:
        return _problem(422, f"no fault {fault[:40]!r}; wanted one of delay, error, crash, deploy, clear")

    @api.get("/simulate/status")
    def status() -> dict[str, Any]:
        return {**shop.status(), "operations": operations}

    @api.get("/services")
    def services() -> dict[str, Any]:
        return {"services": [service.report() for service in shop.services.values()]}

    @api.get("/services/{name}")
    def service(name: str) -> dict[str, Any]:
        return shop.service(name).report()

    @api.post("/services/{name}/restart")
    def restart(name: str, key: Key = "") -> JSONResponse:
        return operate(key, ["restart", name], lambda: shop.restart(name))

    @api.post("/services/{name}/rollback")
    def rollback(name: str, body: Rollback | None = None, key: Key = "") -> JSONResponse:
        version = body.version if body else ""
        return operate(key, ["rollback", name, version], lambda: shop.rollback(name, version))

    @api.post("/services/{name}/scale")
    def scale(name: str, body: Scale, key: Key = "") -> JSONResponse:
        return operate(key, ["scale", name, body.replicas], lambda: shop.scale(name, body.replicas))

    return api


def _problem(status: int, detail: str) -> JSONResponse:
    """RFC 9457."""
    return JSONResponse(
        {"type": "about:blank", "status": status, "detail": detail}, status_code=status,
        media_type="application/problem+json",
    )  # fmt: skip


class _Server(uvicorn.Server):
    """Says where it listens once it does."""

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1] if self.started else 0
        sys.stdout.write(f"supervisor ready on http://127.0.0.1:{port}\n")
        sys.stdout.flush()


def main() -> int:
    """Starts the shop, serves until it is told to stop, stops the shop."""
    parser = argparse.ArgumentParser(prog="headspring.gateway.demo.supervisor", description=__doc__.splitlines()[0])
    parser.add_argument("--otlp", required=True, help="base address of OTLP over HTTP")
    parser.add_argument("--platform", default="", help="base address of the API for change events; as --otlp if empty")
    parser.add_argument(
        "--api-key", default=os.environ.get("HEADSPRING_API_KEY", ""), help="or the environment's HEADSPRING_API_KEY"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder for everything the shop writes")
    parser.add_argument("--port", type=int, default=8430, help="of the two APIs; 0 takes a free one")
    parser.add_argument("--rate", type=float, default=15.0, help="requests a second")
    parser.add_argument("--until-eof", action="store_true", help="stop when standard input closes")
    options = parser.parse_args()
    if not 0 < options.rate <= 200:
        parser.error(f"--rate is {options.rate}, wanted more than 0 and at most 200 requests a second")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    options.data.mkdir(parents=True, exist_ok=True)
    shop = Shop(
        options.data.resolve(), Export(otlp_url=options.otlp.rstrip("/"), api_key=options.api_key),
        platform_url=options.platform or options.otlp, rate=options.rate,
    )  # fmt: skip
    ledger = Ledger(options.data / "operations.db")
    server = _Server(uvicorn.Config(make_api(shop, ledger), host="127.0.0.1", port=options.port, log_level="warning"))
    if options.until_eof:
        threading.Thread(target=_stop_at_eof, args=(server,), name="until-eof", daemon=True).start()
    try:
        shop.start()
        server.run()
    except PlatformError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        shop.stop()
        ledger.close()
    return 0


def _stop_at_eof(server: uvicorn.Server) -> None:
    sys.stdin.buffer.read()
    server.should_exit = True


if __name__ == "__main__":
    sys.exit(main())
