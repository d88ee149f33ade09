"""Prometheus remote write 1.0 messages, declared here by field number.

Source: prometheus/prompb/{remote,types}.proto. Only the fields that are read are declared; protobuf
skips the others.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto as _F

from headspring.ingestion.wire.declared import Fields, declare

_FIELDS: dict[str, Fields] = {
    "Label": (("name", 1, _F.TYPE_STRING, ""), ("value", 2, _F.TYPE_STRING, "")),
    "Sample": (("value", 1, _F.TYPE_DOUBLE, ""), ("timestamp", 2, _F.TYPE_INT64, "")),
    # Native histogram: either count is set, by its kind.
    "Histogram": (
        ("count_int", 1, _F.TYPE_UINT64, ""),
        ("count_float", 2, _F.TYPE_DOUBLE, ""),
        ("sum", 3, _F.TYPE_DOUBLE, ""),
        ("timestamp", 15, _F.TYPE_INT64, ""),
    ),
    "TimeSeries": (
        ("labels", 1, _F.TYPE_MESSAGE, "*Label"),
        ("samples", 2, _F.TYPE_MESSAGE, "*Sample"),
        ("histograms", 4, _F.TYPE_MESSAGE, "*Histogram"),
    ),
    "MetricMetadata": (("type", 1, _F.TYPE_INT32, ""), ("metric_family_name", 2, _F.TYPE_STRING, "")),
    "WriteRequest": (
        ("timeseries", 1, _F.TYPE_MESSAGE, "*TimeSeries"),
        ("metadata", 3, _F.TYPE_MESSAGE, "*MetricMetadata"),
    ),
}


_CLASSES = declare("headspring.ingestion.prompb", _FIELDS)

# Classes made at run time have no static type.
WriteRequest: Any = _CLASSES["WriteRequest"]
TimeSeries: Any = _CLASSES["TimeSeries"]
