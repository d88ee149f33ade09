"""Prometheus remote write 1.0 messages, declared here by field number.

Source: prometheus/prompb/{remote,types}.proto. Only the fields that are read are declared; protobuf
skips the others.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "headspring.ingestion.prompb"
_F = descriptor_pb2.FieldDescriptorProto

_FIELDS: dict[str, tuple[tuple[str, int, int, str], ...]] = {
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


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="headspring/ingestion/prompb.proto", package=_PACKAGE, syntax="proto3"
    )
    for message, fields in _FIELDS.items():
        declared = file.message_type.add(name=message)
        for name, number, kind, inner in fields:
            field = declared.field.add(name=name, number=number, label=_F.LABEL_OPTIONAL)
            field.type = kind  # type: ignore[assignment]  # the enum's plain number
            if inner:
                field.label = _F.LABEL_REPEATED
                field.type_name = f".{_PACKAGE}.{inner.removeprefix('*')}"
    return file


_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_file())


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


# Classes made at run time have no static type.
WriteRequest: Any = _message("WriteRequest")
TimeSeries: Any = _message("TimeSeries")
