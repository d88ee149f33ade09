"""Series in VictoriaMetrics: `VictoriaSeriesStore`."""

from headspring.knowledge.series.victoria.store import VictoriaSeriesStore

__all__ = ["VictoriaSeriesStore"]
