"""Prepared statements sent as one pipeline, and their answers read as raw bytes.

A batch is a few statements with up to eighty parameters. psycopg's cursors are made for everything else:
at a few calls a batch they cost more than PostgreSQL does. Here libpq is used directly, through
psycopg's own binding: prepare once, send all, one Sync, read until its echo.
"""

import asyncio
import struct
from collections.abc import Callable, Sequence

import psycopg
from psycopg import errors
from psycopg.pq import ConnStatus, ExecStatus, Format
from psycopg.pq.abc import PGconn, PGresult

from governance.desk import statements
from governance.desk.arrays import PackedArray

_BIGINT = struct.Struct("!q")
_STATEMENTS = {
    b"open_batch": statements.OPEN_BATCH,
    b"settle": statements.SETTLE,
    b"release": statements.RELEASE,
    b"move_claim": statements.MOVE_CLAIM,
    b"shrink": statements.SHRINK,
    b"record": statements.RECORD,
    b"leave": statements.LEAVE,
    b"admit": statements.ADMIT,
    b"admit_claimed": statements.ADMIT_CLAIMED,
}
_FINE = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)

type Parameter = PackedArray | int
type Call = tuple[bytes, Sequence[Parameter]]


async def prepare(pgconn: PGconn) -> None:
    """Prepare the statements of a batch on a new connection. psycopg.Error when it is lost."""

    def send() -> None:
        for name, sql in _STATEMENTS.items():
            pgconn.send_prepare(name, sql.encode())

    await _exchange(pgconn, send, len(_STATEMENTS))


async def run(pgconn: PGconn, calls: Sequence[Call]) -> list[PGresult]:
    """Run prepared statements in one transaction; a result of binary columns for each.

    Raises the first statement's error as psycopg.Error; nothing was written then. When the connection
    is lost, or the caller is cancelled, nobody knows: it is closed.
    """
    packed = [(name, [_pack(parameter) for parameter in parameters]) for name, parameters in calls]

    def send() -> None:
        for name, values in packed:
            pgconn.send_query_prepared(name, values, [Format.BINARY] * len(values), Format.BINARY)

    return await _exchange(pgconn, send, len(packed))


def bigint(value: bytes | None) -> int:
    """A binary bigint column that is not NULL."""
    assert value is not None
    number: int = _BIGINT.unpack(value)[0]
    return number


def _pack(parameter: Parameter) -> bytes:
    return parameter.data if isinstance(parameter, PackedArray) else _BIGINT.pack(parameter)


async def _exchange(pgconn: PGconn, send: Callable[[], None], count: int) -> list[PGresult]:
    """Send everything and one Sync, then read `count` answers and the Sync's echo."""
    try:
        pgconn.enter_pipeline_mode()
        send()
        pgconn.pipeline_sync()
        results = await _answers(pgconn)
        pgconn.exit_pipeline_mode()
    except BaseException:
        pgconn.finish()  # half an exchange is no state to go on from
        raise
    for result in results:
        if result.status not in _FINE:
            raise errors.error_from_result(result)
    if len(results) != count:
        raise psycopg.InternalError(f"PostgreSQL gave {len(results)} answers to {count} statements.")
    return results


async def _answers(pgconn: PGconn) -> list[PGresult]:
    """The result of each statement, once the Sync was answered: the transaction is over by then."""
    loop, socket = asyncio.get_running_loop(), pgconn.socket
    results: list[PGresult] = []
    ready = asyncio.Event()
    loop.add_reader(socket, ready.set)
    try:
        while pgconn.flush():  # a batch larger than the socket's buffer
            loop.add_writer(socket, ready.set)
            await ready.wait()
            loop.remove_writer(socket)
            ready.clear()
            pgconn.consume_input()
        while True:
            while not pgconn.is_busy():
                result = pgconn.get_result()
                if result is None:  # the end of one statement's results
                    if pgconn.status == ConnStatus.BAD:
                        raise psycopg.OperationalError("the connection is lost")
                elif result.status == ExecStatus.PIPELINE_SYNC:
                    return results
                else:
                    results.append(result)
            await ready.wait()
            ready.clear()
            pgconn.consume_input()
    finally:
        loop.remove_writer(socket)
        loop.remove_reader(socket)
