"""Ask the simulator: through the SDK with a script, or with bytes on a socket."""

import json
import socket
from typing import Any
from urllib.parse import urlsplit

MODEL = "claude-haiku-5-5"
HELLO: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 300,
    "messages": [{"role": "user", "content": "Hello"}],
}


def scripted(**script: Any) -> dict[str, Any]:
    """Arguments that make an SDK call follow a script: `client.messages.create(**HELLO, **scripted(…))`."""
    return {"extra_headers": {"anthropic-simulator": json.dumps(script)}}


def request_bytes(body: bytes, *headers: str, target: str = "POST /v1/messages") -> bytes:
    lines = [
        f"{target} HTTP/1.1",
        "host: simulator",
        "x-api-key: sim",
        "anthropic-version: 2026-10-21",
        *headers,
    ]
    if not any(header.startswith(("content-length", "transfer-encoding")) for header in headers):
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def script_header(**script: Any) -> str:
    return f"anthropic-simulator: {json.dumps(script)}"


def connect(url: str) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port), timeout=10)


def read_all(connection: socket.socket) -> tuple[bytes, str]:
    """What came, and how it ended: "closed" or "reset"."""
    received = b""
    while True:
        try:
            data = connection.recv(65536)
        except ConnectionResetError:
            return received, "reset"
        if not data:
            return received, "closed"
        received += data


def body_of(received: bytes) -> bytes:
    """The body of one chunked or plain HTTP response, whole or cut off."""
    head, _, body = received.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head:
        return body
    parts = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        parts.append(rest[:length])
        body = rest[length + 2 :]
    return b"".join(parts)
