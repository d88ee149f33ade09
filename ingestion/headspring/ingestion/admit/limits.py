"""Limits on everything that comes from outside. Each one is a setting with a unit, a default and a reason."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request, one series and one tenant may hold."""

    max_body_bytes: int = 20 * _MIB
    """After decompression; OTLP's default (opentelemetry-proto, specification.md)."""
    max_compressed_bytes: int = 20 * _MIB
    """As it comes over the network, with a Content-Encoding."""
    max_ratio: float = 500.0
    """Decompressed over compressed size. Repetitive telemetry reaches about 100; deflate's ceiling is 1032."""
    ratio_free_bytes: int = _MIB
    """Results up to this size may have any ratio: they cost nothing."""
    max_in_flight_bytes: int = 128 * _MIB
    """Bodies being worked on at once; above it the answer is 503 with Retry-After."""
    max_body_s: float = 60.0
    """For a body to arrive; a sender that drips holds memory."""
    max_json_depth: int = 64
    """Nesting of JSON; OTLP attributes reach about 15."""
    max_series: int = 1_000_000
    """Series per tenant: new ones above it are refused, known ones go on."""
    series_idle_s: float = 6 * 3600.0
    """A series without a sample for this long no longer counts; should it come back, it is published again."""
    max_labels: int = 64
    """Labels of one series, resource attributes counted."""
    max_label_bytes: int = 4096
    """UTF-8 bytes of one label's value, or of a metric's name."""
    max_future_s: float = 600.0
    """Samples further ahead than this come from a wrong clock."""
    max_age_s: float = 86_400.0
    """Samples older than this are too late for every window."""
    max_text_bytes: int = 65_536
    """UTF-8 bytes of one log body, alert annotation or attribute value kept; the rest is cut and marked."""
    max_alerts: int = 10_000
    """Alerts or changes in one request."""
    max_record_bytes: int = 500_000
    """One record on a topic; larger batches are split. Kafka's default limit is 1 MB."""
    max_dead_letter_bytes: int = 65_536
    """Of an unreadable message, kept in the dead letter."""
    retry_after_s: float = 1.0
    """What an overload answer asks for."""
