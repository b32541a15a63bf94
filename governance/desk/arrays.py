"""Arrays for PostgreSQL, packed before anything is sent.

A batch travels as one array a column. They are packed here, in full, before the first statement
leaves: a value that cannot be sent (2**70, a lone surrogate) then fails in Python, with nothing half
done on the connection. psycopg's own list dumper picks int2, int4 or int8 by value, which makes
several prepared statements of one, and cannot type an empty or all-NULL list.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.types.numeric import Int8BinaryDumper

_HEAD = struct.Struct("!iiIii")  # dimensions, has nulls, element type, length, lower bound
_NULL = b"\xff\xff\xff\xff"
_BIGINT = struct.Struct("!q").pack
_SIZE = struct.Struct("!i").pack
_BIGINT_SIZE, _UUID_SIZE = _SIZE(8), _SIZE(16)
_TRUE, _FALSE = struct.pack("!i?", 1, True), struct.pack("!i?", 1, False)


class PackedArray:
    """The binary form of a one-dimensional array. `sized` makes one item of a value that is not None."""

    __slots__ = ("data",)
    element_oid: ClassVar[int]

    def __init__(self, values: Sequence[Any]) -> None:
        """struct.error for a number over 64 bits, UnicodeEncodeError for a lone surrogate."""
        length = len(values)
        nulls = values.count(None)
        if nulls == length:  # many columns of most batches; also the array without a row
            self.data = _of_nulls(self.element_oid, length)
        else:
            head = _HEAD.pack(1, 1, self.element_oid, length, 1)
            self.data = head + (self._some(values) if nulls else self._all(values))

    def _all(self, values: Sequence[Any]) -> bytes:
        return b"".join(map(self.sized, values))

    def _some(self, values: Sequence[Any]) -> bytes:
        return b"".join([_NULL if value is None else self.sized(value) for value in values])

    @staticmethod
    def sized(value: Any) -> bytes:
        raise NotImplementedError


@lru_cache(maxsize=4096)
def _of_nulls(element_oid: int, length: int) -> bytes:
    if length == 0:
        return struct.pack("!iiI", 0, 0, element_oid)
    return _HEAD.pack(1, 1, element_oid, length, 1) + _NULL * length


class BigintArray(PackedArray):
    element_oid = 20

    def _all(self, values: Sequence[int]) -> bytes:
        # Each item is its size and itself: joining by the size writes all sizes but the first.
        return _BIGINT_SIZE + _BIGINT_SIZE.join(map(_BIGINT, values))

    @staticmethod
    def sized(value: int) -> bytes:
        return _BIGINT_SIZE + _BIGINT(value)


class UuidArray(PackedArray):
    element_oid = 2950

    @staticmethod
    def sized(value: UUID) -> bytes:
        return _UUID_SIZE + value.bytes


class BooleanArray(PackedArray):
    element_oid = 16

    @staticmethod
    def sized(value: bool) -> bytes:
        return _TRUE if value else _FALSE


class ByteaArray(PackedArray):
    element_oid = 17

    @staticmethod
    def sized(value: bytes) -> bytes:
        return _SIZE(len(value)) + value


class TextArray(PackedArray):
    element_oid = 25

    @staticmethod
    def sized(value: str) -> bytes:
        encoded = value.encode()
        return _SIZE(len(encoded)) + encoded


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
