"""Arrays for PostgreSQL, packed before anything is sent.

A batch travels as one array a column. They are packed here, in full, before the first statement
leaves: a value that cannot be sent (2**70, a lone surrogate) then fails in Python, with nothing half
done on the connection. psycopg's own list dumper picks int2, int4 or int8 by value, which makes
several prepared statements of one, and cannot type an empty or all-NULL list.
"""

import struct
from collections.abc import Sequence
from typing import Any, ClassVar
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.types.numeric import Int8BinaryDumper

_HEAD = struct.Struct("!iiIii")  # dimensions, has nulls, element type, length, lower bound
_NULL = b"\xff\xff\xff\xff"
_BIGINT = struct.Struct("!iq").pack
_SIZE = struct.Struct("!i").pack
_UUID_SIZE = _SIZE(16)


class PackedArray:
    """The binary form of a one-dimensional array."""

    __slots__ = ("data",)
    element_oid: ClassVar[int]

    def _join(self, items: list[bytes], length: int) -> None:
        if length:
            self.data = _HEAD.pack(1, 1, self.element_oid, length, 1) + b"".join(items)
        else:
            self.data = struct.pack("!iiI", 0, 0, self.element_oid)


class BigintArray(PackedArray):
    element_oid = 20

    def __init__(self, values: Sequence[int | None]) -> None:
        """struct.error (a ValueError to the desk) when a value does not fit 64 bits."""
        self._join([_NULL if value is None else _BIGINT(8, value) for value in values], len(values))


class UuidArray(PackedArray):
    element_oid = 2950

    def __init__(self, values: Sequence[UUID | None]) -> None:
        self._join([_NULL if value is None else _UUID_SIZE + value.bytes for value in values], len(values))


class BooleanArray(PackedArray):
    element_oid = 16
    _ITEMS = {True: struct.pack("!i?", 1, True), False: struct.pack("!i?", 1, False), None: _NULL}

    def __init__(self, values: Sequence[bool | None]) -> None:
        self._join([self._ITEMS[value] for value in values], len(values))


class ByteaArray(PackedArray):
    element_oid = 17

    def __init__(self, values: Sequence[bytes | None]) -> None:
        self._join([_NULL if value is None else _SIZE(len(value)) + value for value in values], len(values))


class TextArray(PackedArray):
    element_oid = 25

    def __init__(self, values: Sequence[str | None]) -> None:
        """UnicodeEncodeError for a lone surrogate."""
        self._join(
            [_NULL if value is None else _SIZE(len(item := value.encode())) + item for value in values],
            len(values),
        )


_ARRAY_OIDS = {BigintArray: 1016, UuidArray: 2951, BooleanArray: 1000, ByteaArray: 1001, TextArray: 1009}

ARRAY_OF = {
    "bigint": BigintArray,
    "uuid": UuidArray,
    "boolean": BooleanArray,
    "bytea": ByteaArray,
    "text": TextArray,
    "jsonb": TextArray,  # cast to jsonb in the statement
}
"""Which array carries a column type of calls/records.py."""


def register_arrays(connection: AsyncConnection[Any]) -> None:
    """Teach a connection to send packed arrays as they are, and every int as a bigint."""
    connection.adapters.register_dumper(int, Int8BinaryDumper)
    for array_class, array_oid in _ARRAY_OIDS.items():
        connection.adapters.register_dumper(array_class, _dumper(array_oid))


def _dumper(array_oid: int) -> type[Dumper]:
    class PackedArrayDumper(Dumper):
        format = Format.BINARY
        oid = array_oid

        def dump(self, obj: PackedArray) -> Buffer | None:
            return obj.data

    return PackedArrayDumper
