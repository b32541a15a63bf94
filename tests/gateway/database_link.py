"""A line to PostgreSQL that can be cut: what the gateway sees of a database outage."""

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.harness import free_listener


class DatabaseLink:
    """Forwards TCP to the test database's socket. `cut()` drops every connection and refuses new ones."""

    def __init__(self) -> None:
        self._address = urlsplit(os.environ["DATABASE_URL"])
        query = parse_qs(self._address.query)
        self._server = str(Path(query["host"][0]) / f".s.PGSQL.{query.get('port', ['5432'])[0]}")
        self._listener = free_listener()
        self._port = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._is_cut = False
        self._listen()

    @property
    def url(self) -> str:
        """DATABASE_URL of whoever shall depend on this link."""
        user = f"{self._address.username}:{self._address.password or ''}"
        return f"postgresql://{user}@127.0.0.1:{self._port}{self._address.path}?sslmode=disable&gssencmode=disable"

    def cut(self) -> None:
        with self._lock:
            self._is_cut = True  # an accept that is under way takes one more connection from a closed socket
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        for end in list(self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._open.clear()

    def mend(self) -> None:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self._port))
        self._is_cut = False
        self._listen()

    def _listen(self) -> None:
        self._listener.listen(64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                with self._lock:
                    if self._is_cut or listener is not self._listener:
                        client.close()
                        server.close()
                        return
                    self._open |= {client, server}
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=_pump, args=(source, target), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
