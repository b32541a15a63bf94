"""A proxy in front of PostgreSQL that loses an answer on demand: the request arrives, the reply does not."""

import asyncio
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


class CuttingProxy:
    """Listens on a private TCP port; `lose_next_answer()` arms it for one request."""

    def __init__(self, database_url: str) -> None:
        parts = urlsplit(database_url)
        self._socket = str(Path(parse_qs(parts.query)["host"][0]) / ".s.PGSQL.5432")
        self._parts = parts
        self._armed = False
        self.answers_lost = 0

    async def start(self) -> str:
        """Start listening; returns the database URL that leads through the proxy."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        user = f"{self._parts.username}:{self._parts.password}"
        return f"postgresql://{user}@127.0.0.1:{port}{self._parts.path}?sslmode=disable&gssencmode=disable"

    async def stop(self) -> None:
        self._server.close()

    def lose_next_answer(self) -> None:
        self._armed = True

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_unix_connection(self._socket)
        lost = asyncio.Event()

        async def forward() -> None:
            while data := await client.read(1 << 16):
                if self._armed:
                    self._armed = False
                    lost.set()
                to_server.write(data)
                await to_server.drain()
                if lost.is_set():
                    await asyncio.sleep(0.05)  # time to commit
                    self.answers_lost += 1
                    to_client.transport.abort()
                    to_server.transport.abort()
                    return
            to_server.close()

        async def answer() -> None:
            while data := await server.read(1 << 16):
                if not lost.is_set():
                    to_client.write(data)
            to_client.close()

        await asyncio.gather(forward(), answer(), return_exceptions=True)
