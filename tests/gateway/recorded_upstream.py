"""An upstream that sends a recorded stream up to a byte, and then does what the request says.

The request's header `anthropic-recorded: <name>:<byte>:<what>`; what is `cut` (the connection is dropped)
or a number of seconds to be silent, after which the rest is sent.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.gateway.recorded_streams import STREAMS


class RecordedUpstream(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        """The headers of the requests, as they came."""
        self.left: list[str] = []
        """Those whose connection was closed before all was sent."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RecordedUpstream

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        asked = self.headers["anthropic-recorded"]
        self.server.asked.append(asked)
        name, at, what = asked.split(":")
        data = STREAMS[name].data
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        try:
            self.wfile.write(data[: int(at)])
            if what == "cut":
                self.close_connection = True
                return
            time.sleep(float(what))
            for end in range(int(at), len(data), 40):  # in pieces: the first write to a closed end succeeds
                self.wfile.write(data[end : end + 40])
                time.sleep(0.005)
        except OSError:
            self.server.left.append(asked)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def recorded_upstream() -> Iterator[RecordedUpstream]:
    server = RecordedUpstream()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
