"""Event-rate stages as Faust apps on Kafka. Needs the extra `distributed`; nothing that the embedded shape imports
imports this."""

from headspring.streaming.engine.faust.app import Timing
from headspring.streaming.engine.faust.engine import FaustEngine

__all__ = ["FaustEngine", "Timing"]
