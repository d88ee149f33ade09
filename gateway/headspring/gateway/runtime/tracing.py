"""Headspring's own traces to a collector of the owner's choice: OpenTelemetry SDK, OTLP over HTTP."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from headspring.gateway.runtime.config import Settings
from headspring.proto.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider


class Traces:
    """Running export; `close` sends what waits, for a few seconds at most."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider

    def close(self) -> None:
        self._provider.shutdown()


def install(settings: Settings) -> Traces | None:
    """Starts the export that the settings ask for; None when they ask for none.

    Requests that come with a sampled trace context are always part of that trace; of the others `traces_share`.

    Raises:
        ConfigError: `traces_url` is no HTTP address.
    """
    if not settings.traces_url:
        return None
    if not settings.traces_url.startswith(("http://", "https://")):
        raise ConfigError(
            f"setting traces_url is {settings.traces_url!r}; wanted the address of an OTLP/HTTP receiver, "
            "e.g. http://collector:4318/v1/traces"
        )
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    provider = TracerProvider(
        resource=Resource.create({"service.name": "headspring", "service.version": version("headspring")}),
        sampler=ParentBasedTraceIdRatio(settings.traces_share),
        shutdown_on_exit=False,
    )
    # Headers such as a key come from the standard variable OTEL_EXPORTER_OTLP_HEADERS, so that no flag holds a secret.
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.traces_url, timeout=5)))
    trace.set_tracer_provider(provider)
    return Traces(provider)
