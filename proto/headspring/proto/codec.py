"""Messages to and from protobuf bytes and JSON.

The dataclasses and the `.proto` files have the same field names, so one table-driven converter serves
all of them; `tests/unit/proto` checks that no field is missing on either side. Columns (NumPy arrays)
travel as little-endian bytes and cost one copy.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from headspring.proto import action, detection, incident, telemetry
from headspring.proto.errors import ContractError
from headspring.proto.v1 import action_pb2, detection_pb2, incident_pb2, telemetry_pb2

T = TypeVar("T")

# Protobuf and dataclass fields are only known at run time here, hence `Any` in the converters below.
_Get = Callable[[Any], Any]
_Put = Callable[[Any, Any], None]

_MESSAGES: dict[type, type[Message]] = {}
for _module, _generated in (
    (telemetry, telemetry_pb2),
    (detection, detection_pb2),
    (incident, incident_pb2),
    (action, action_pb2),
):
    for _name, _class in vars(_module).items():
        if dataclasses.is_dataclass(_class) and isinstance(_class, type) and _class.__module__ == _module.__name__:
            _MESSAGES[_class] = getattr(_generated, _name)


def message_classes() -> Mapping[type, type[Message]]:
    """Every dataclass that travels, with its protobuf class."""
    return types.MappingProxyType(_MESSAGES)


def encode(message: object) -> bytes:
    """Protobuf bytes of one of the dataclasses of this package.

    Raises:
        TypeError: it is not a message.
    """
    wire = _to_wire(message)
    return wire.SerializeToString()


def decode(kind: type[T], data: bytes | memoryview) -> T:
    """The dataclass `kind` from protobuf bytes.

    Raises:
        ContractError: the bytes are not such a message, or its columns differ in length.
    """
    wire = _MESSAGES[kind]()
    try:
        wire.ParseFromString(bytes(data))
    except DecodeError as error:
        raise ContractError(f"{len(data)} bytes are not a {kind.__name__}: {error}") from error
    result: T = _from_wire(kind, wire)
    _check_columns(result)
    return result


def to_jsonable(message: object) -> Any:
    """Plain dicts, lists, strings and numbers for JSON.

    64-bit ids become strings (JSON numbers lose digits beyond 2^53), infinities and NaN become null.
    """
    if dataclasses.is_dataclass(message) and not isinstance(message, type):
        return {
            field.name: _id_text(getattr(message, field.name))
            if field.name == "series_id"
            else to_jsonable(getattr(message, field.name))
            for field in dataclasses.fields(message)
        }
    if isinstance(message, Mapping):
        return {str(key): to_jsonable(value) for key, value in message.items()}
    if isinstance(message, list | tuple):
        return [to_jsonable(value) for value in message]
    if isinstance(message, np.ndarray):
        return [to_jsonable(value) for value in message.tolist()]
    if isinstance(message, float):
        return message if math.isfinite(message) else None
    if isinstance(message, bytes):
        return message.hex()
    if isinstance(message, StrEnum):
        return message.value
    return message


def _id_text(value: Any) -> Any:
    return [f"{item:016x}" for item in value.tolist()] if isinstance(value, np.ndarray) else f"{value:016x}"


def _check_columns(message: object) -> None:
    lengths = {
        field.name: getattr(message, field.name).size
        for field in dataclasses.fields(message)  # type: ignore[arg-type]  # only dataclasses reach this
        if isinstance(getattr(message, field.name), np.ndarray)
    }
    if len(set(lengths.values())) > 1:
        raise ContractError(f"columns of {type(message).__name__} differ in length: {lengths}")


def _to_wire(message: object) -> Message:
    cls: Any = type(message)
    if cls not in _MESSAGES:
        raise TypeError(f"{cls.__name__} is not a message that travels")
    wire = _MESSAGES[cls]()
    for name, put, _ in _plan(cls):
        put(wire, getattr(message, name))
    return wire


def _from_wire(kind: Any, wire: Message) -> Any:
    return kind(**{name: get(wire) for name, _, get in _plan(kind)})


@functools.cache
def _plan(kind: Any) -> tuple[tuple[str, _Put, _Get], ...]:
    """For each field of a dataclass: its name, how to write it and how to read it."""
    hints = typing.get_type_hints(kind)
    descriptor = _MESSAGES[kind].DESCRIPTOR
    return tuple(
        (field.name, *_converter(descriptor.fields_by_name[field.name], hints[field.name]))
        for field in dataclasses.fields(kind)
    )


def _converter(field: Any, hint: Any) -> tuple[_Put, _Get]:
    name = field.name
    origin = typing.get_origin(hint)
    if origin is np.ndarray:
        return _column(name, np.dtype(typing.get_args(typing.get_args(hint)[1])[0]).newbyteorder("<"))
    if origin is tuple:
        item = typing.get_args(hint)[0]
        if item in _MESSAGES:
            return (
                lambda wire, value: getattr(wire, name).extend([_to_wire(one) for one in value]),
                lambda wire: tuple([_from_wire(item, one) for one in getattr(wire, name)]),
            )
        return (
            lambda wire, value: getattr(wire, name).extend(value),
            lambda wire: tuple(getattr(wire, name)),
        )
    if origin is not None and issubclass(origin, Mapping):
        return (
            lambda wire, value: getattr(wire, name).update(value),
            lambda wire: dict(getattr(wire, name)),
        )
    if hint in _MESSAGES:
        return (
            lambda wire, value: getattr(wire, name).CopyFrom(_to_wire(value)),
            lambda wire: _from_wire(hint, getattr(wire, name)),
        )
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _enum(name, field.enum_type, hint)
    return (
        lambda wire, value: setattr(wire, name, value),
        lambda wire: getattr(wire, name),
    )


def _column(name: str, dtype: np.dtype[Any]) -> tuple[_Put, _Get]:
    def put(wire: Any, value: Any) -> None:
        setattr(wire, name, np.ascontiguousarray(value, dtype=dtype).tobytes())

    def get(wire: Any) -> Any:
        data = getattr(wire, name)
        if len(data) % dtype.itemsize:
            raise ContractError(f"column {name} has {len(data)} bytes, wanted a multiple of {dtype.itemsize}")
        return np.frombuffer(data, dtype=dtype)

    return put, get


def _enum(name: str, descriptor: Any, kind: type[StrEnum]) -> tuple[_Put, _Get]:
    prefix = "".join("_" + char if char.isupper() else char for char in kind.__name__).lstrip("_").upper() + "_"
    by_number = {value.number: kind(value.name.removeprefix(prefix).lower()) for value in descriptor.values}
    by_member = {member: number for number, member in by_number.items()}
    unknown = by_number[0]
    return (
        lambda wire, value: setattr(wire, name, by_member[value]),
        # A number that a newer writer knows and we do not reads as the zero value, as protobuf means it.
        lambda wire: by_number.get(getattr(wire, name), unknown),
    )
