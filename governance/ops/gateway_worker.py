"""One gateway worker: uvicorn on a socket that its parent has bound.

    python -m governance.ops.gateway_worker FD

`lifespan="on"`: a worker whose start-up fails ends, instead of serving without a desk. On SIGTERM
it stops accepting, lets calls finish, and the application's shutdown flushes the desk.
"""

import os
import socket
import sys
import threading
from types import FrameType

import uvicorn

from governance.gateway.http import JoiningProtocol

APPLICATION = "governance.gateway.asgi:application"
DRAIN_SECONDS = float(os.environ.get("EXCHEQUER_DRAIN_SECONDS", "30"))
FLUSH_SECONDS_MAX = 15.0
"""What is left after the drain for cancelled calls to be charged at their bound and the desk to flush."""


class _Server(uvicorn.Server):
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            # Our parent kills what does not end; a worker that outlived its parent has to see to it itself.
            end = threading.Timer(DRAIN_SECONDS + FLUSH_SECONDS_MAX, os._exit, [1])
            end.daemon = True
            end.start()
        super().handle_exit(sig, frame)


def main() -> None:
    listener = socket.socket(fileno=int(sys.argv[1]))
    config = uvicorn.Config(
        APPLICATION,
        lifespan="on",
        loop="uvloop",
        http=JoiningProtocol,
        ws="none",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(DRAIN_SECONDS),
    )
    _Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
