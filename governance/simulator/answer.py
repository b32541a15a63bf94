"""From a status, headers and a body to the very bytes on the wire, and the point where a fault cuts them."""

import hashlib
import re
import time
import zlib
from dataclasses import dataclass, field
from typing import Any, Literal

from governance.simulator.errors import REASON_OF_STATUS, ApiError, envelope
from governance.simulator.script import PLAIN, Script

Ending = Literal["finish", "close", "stall", "reset"]

ORGANIZATION_ID = "00000000-0000-4000-8000-73696d756c61"
WINDOW_SECONDS = 60
_COUNTED = "anthropic-ratelimit-"
LAST_CHUNK = b"0\r\n\r\n"
WINDOW_BITS = {"gzip": 31, "deflate": 15}


@dataclass(slots=True)
class Answer:
    """What a connection is to send: `writes` one by one with `delay_seconds` between them, then `ending`."""

    request_id: str
    status: int
    head: bytes
    writes: list[bytes]
    ending: Ending = "finish"
    latency_seconds: float = 0.0
    delay_seconds: float = 0.0
    charge: dict[str, Any] | None = None  # the line of the bill that must be durable first


@dataclass(frozen=True, slots=True)
class Content:
    """A reply before it is framed. `writes` joined is the body; a stream is sent chunked."""

    status: int
    writes: list[bytes]
    streaming: bool = False
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = field(default=())


def make_answer(content: Content, request_id: str, script: Script = PLAIN) -> Answer:
    """Compress, frame and, where the script says so, damage."""
    writes, headers = content.writes, content.headers
    if script.compress is not None:
        writes = _compressed(writes, script.compress)
        headers = (*headers, ("content-encoding", script.compress))
    size = None if content.streaming else sum(map(len, writes))
    head = _head(content.status, content.content_type, request_id, size, (*headers, *script.headers.items()))
    answer = Answer(
        request_id,
        content.status,
        head,
        writes,
        latency_seconds=script.latency_ms / 1000,
        delay_seconds=script.chunk_delay_ms / 1000,
    )
    _damage(answer, script)
    if content.streaming:
        answer.writes = [b"%x\r\n%b\r\n" % (len(write), write) for write in answer.writes]
        if answer.ending == "finish":
            answer.writes[-1] += LAST_CHUNK
    return answer


def error_answer(error: ApiError, request_id: str, script: Script = PLAIN) -> Answer:
    """The answer for a refusal. Faults of the script do not touch it; its latency does."""
    body = envelope(error.error_type, error.message, request_id, error.error_code)
    head = _head(error.status, "application/json", request_id, len(body), error.headers)
    return Answer(request_id, error.status, head, [body], latency_seconds=script.latency_ms / 1000)


def body_sha256(content: Content, script: Script) -> str:
    """The digest of the whole body as sent (compressed, not chunked, not damaged): for byte-exact tests."""
    writes = content.writes if script.compress is None else _compressed(content.writes, script.compress)
    return hashlib.sha256(b"".join(writes)).hexdigest()


def _damage(answer: Answer, script: Script) -> None:
    fault = script.fault_set
    if fault.reset_before_headers:
        answer.head, answer.writes, answer.ending = b"", [], "reset"
    elif fault.reset_before_body:
        answer.writes, answer.ending = [], "reset"
    elif fault.close_after_bytes is not None:
        answer.writes, answer.ending = _first_bytes(answer.writes, fault.close_after_bytes), "close"
    elif fault.stall_after_bytes is not None:
        answer.writes, answer.ending = _first_bytes(answer.writes, fault.stall_after_bytes), "stall"


def _first_bytes(writes: list[bytes], size: int) -> list[bytes]:
    kept = []
    for write in writes:
        if size <= 0:
            break
        kept.append(write[:size])
        size -= len(write)
    return kept


def _compressed(writes: list[bytes], encoding: str) -> list[bytes]:
    """Flushed at each write, so that a stream still arrives event by event."""
    compressor = zlib.compressobj(wbits=WINDOW_BITS[encoding])
    flushed = [compressor.compress(write) + compressor.flush(zlib.Z_SYNC_FLUSH) for write in writes]
    return [*flushed[:-1], flushed[-1] + compressor.flush()]


def _head(
    status: int, content_type: str, request_id: str, size: int | None, headers: tuple[tuple[str, str], ...]
) -> bytes:
    length = (
        "transfer-encoding: chunked\r\ncache-control: no-cache" if size is None else f"content-length: {size}"
    )
    extra = "".join(f"{name}: {value}\r\n" for name, value in headers)
    usual = _usual_headers(int(time.time()))
    for name, _ in headers:
        if name.startswith(_COUNTED):  # in place of the constant
            usual = re.sub(rf"{name}: .*\r\n", "", usual)
    return (
        f"HTTP/1.1 {status} {REASON_OF_STATUS.get(status, 'Scripted')}\r\n"
        f"content-type: {content_type}\r\n{length}\r\nrequest-id: {request_id}\r\n"
        f"{usual}{extra}\r\n"
    ).encode()


_usual: tuple[int, str] = (0, "")


def _usual_headers(second: int) -> str:
    """The headers that every reply has; made once a second. The limits are constants, nothing is counted."""
    global _usual
    if _usual[0] != second:
        reset = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second + WINDOW_SECONDS))
        limits = {"requests": 4_000, "tokens": 2_400_000, "input-tokens": 2_000_000, "output-tokens": 400_000}
        lines = [
            f"date: {time.strftime('%a, %d %b %Y %H:%M:%S GMT', time.gmtime(second))}",
            "server: exchequer-simulator",
            f"anthropic-organization-id: {ORGANIZATION_ID}",
        ]
        for name, limit in limits.items():
            lines.append(f"anthropic-ratelimit-{name}-limit: {limit}")
            lines.append(f"anthropic-ratelimit-{name}-remaining: {limit - 1}")
            lines.append(f"anthropic-ratelimit-{name}-reset: {reset}")
        _usual = (second, "".join(f"{line}\r\n" for line in lines))
    return _usual[1]
