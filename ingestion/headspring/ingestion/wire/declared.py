"""Message classes of foreign protobuf formats, declared by field number in a few lines.

Only the fields that are read are declared; protobuf skips the others. So no generated code and no
compiler is needed for formats of which we read a handful of fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Fields = tuple[tuple[str, int, int, str], ...]
"""(name, number, FieldDescriptorProto type, message type: "" none, "Name" one, "*Name" repeated)."""


def declare(package: str, messages: Mapping[str, Fields]) -> dict[str, Any]:
    """The class of every message by name."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for message, fields in messages.items():
        declared = file.message_type.add(name=message)
        for name, number, kind, inner in fields:
            field = declared.field.add(name=name, number=number)
            field.type = kind  # type: ignore[assignment]  # the enum's plain number
            field.label = field.LABEL_REPEATED if inner.startswith("*") else field.LABEL_OPTIONAL
            if inner:
                field.type_name = f".{package}.{inner.removeprefix('*')}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)  # type: ignore[no-untyped-call,unused-ignore]
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in messages}
