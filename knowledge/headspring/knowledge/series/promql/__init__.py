"""A declared subset of PromQL over any series store, with the semantics of Prometheus 2.42.

`SUBSET` says what is understood. Everything else raises `QueryError` with its position in the text: a
wrong number is worse than an error. Samples keep their nanoseconds; Prometheus rounds to milliseconds.
"""

from headspring.knowledge.series.promql.evaluate import (
    MAX_POINTS,
    MAX_SERIES,
    evaluate_instant,
    evaluate_range,
    is_range_selector,
)
from headspring.knowledge.series.promql.syntax import SUBSET

__all__ = ["MAX_POINTS", "MAX_SERIES", "SUBSET", "evaluate_instant", "evaluate_range", "is_range_selector"]
