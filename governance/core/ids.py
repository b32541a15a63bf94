"""Identifiers of facts: UUIDv7 (RFC 9562), so that an id sorts by time and names its partition."""

import random
import threading
import time
import uuid

_lock = threading.Lock()
_last_ms = 0
_sequence = 0


def uuid7() -> uuid.UUID:
    """A new id; ids made by one process always increase, even when the clock steps back.

    Layout: 48 bits of Unix milliseconds, 12 bits of a counter within the millisecond, 62 random bits.
    """
    global _last_ms, _sequence
    with _lock:
        now_ms = time.time_ns() // 1_000_000
        if now_ms > _last_ms:
            _last_ms, _sequence = now_ms, 0
        else:
            _sequence += 1
            if _sequence > 0xFFF:
                _last_ms, _sequence = _last_ms + 1, 0
        milliseconds, sequence = _last_ms, _sequence
    # An id is no secret, so it takes no system call. Python seeds its generator anew after a fork.
    random_bits = random.getrandbits(62)
    return uuid.UUID(int=milliseconds << 80 | 0x7 << 76 | sequence << 64 | 0b10 << 62 | random_bits)


def id_floor(unix_ms: int) -> uuid.UUID:
    """The smallest possible id of that millisecond: a lower bound for range queries by time."""
    return uuid.UUID(int=unix_ms << 80)


def id_time_ms(identifier: uuid.UUID) -> int:
    """The Unix milliseconds that an id carries."""
    return identifier.int >> 80
