"""Loki's push messages, declared by field number. Source: grafana/loki pkg/push/push.proto."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto as _F

from headspring.ingestion.wire.declared import Fields, declare

_FIELDS: dict[str, Fields] = {
    "Timestamp": (("seconds", 1, _F.TYPE_INT64, ""), ("nanos", 2, _F.TYPE_INT32, "")),
    "LabelPair": (("name", 1, _F.TYPE_STRING, ""), ("value", 2, _F.TYPE_STRING, "")),
    "Entry": (
        ("timestamp", 1, _F.TYPE_MESSAGE, "Timestamp"),
        ("line", 2, _F.TYPE_STRING, ""),
        ("structured_metadata", 3, _F.TYPE_MESSAGE, "*LabelPair"),
    ),
    "Stream": (("labels", 1, _F.TYPE_STRING, ""), ("entries", 2, _F.TYPE_MESSAGE, "*Entry")),
    "PushRequest": (("streams", 1, _F.TYPE_MESSAGE, "*Stream"),),
}
PushRequest: Any = declare("headspring.ingestion.lokipb", _FIELDS)["PushRequest"]
