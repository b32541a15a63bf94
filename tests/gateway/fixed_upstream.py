"""An upstream that looks at nothing and answers every request with the same bytes."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPLY = json.dumps(
    {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5-5",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 5, "output_tokens": 7},
    }
).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        reply, content_type, encoding = self.server.answer  # type: ignore[attr-defined]
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", content_type)
        if encoding:
            self.send_header("content-encoding", encoding)
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(reply)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def fixed_upstream(
    reply: bytes = REPLY, content_type: str = "application/json", encoding: str = ""
) -> Iterator[str]:
    """Its address, while it serves; `reply` is a complete Message unless said otherwise."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.answer = (reply, content_type, encoding)  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
