"""The gateway's ASGI application: a lean handler for the proxy paths, beside the console's stock Django.

It resolves the path, calls the DRF view and writes its response. There is no middleware chain, no signal,
no thread and no ORM, on purpose: the stock handler costs ten times as much and a thread per open stream.

    uvicorn governance.gateway.asgi:application --lifespan on --ws none --no-access-log
"""

import asyncio
import gc
import logging
import os
import sys
from types import ModuleType
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "governance.settings")

import django
from django.conf import settings

# The call path needs models, not pages: memory of every worker, for nothing.
_PAGES = (
    "unfold",
    "django.contrib.admin",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "governance.console",
    "django.contrib.humanize",
    "drf_spectacular",
    "governance.ops",
)
settings.INSTALLED_APPS = [name for name in settings.INSTALLED_APPS if not name.startswith(_PAGES)]
# Our views render and parse nothing through DRF, and no schema of them is made here. Its parts for that, and
# the admin pages that its schemas import, would be a tenth of a worker's memory.
settings.REST_FRAMEWORK = {"DEFAULT_RENDERER_CLASSES": (), "DEFAULT_PARSER_CLASSES": ()}
_schemas = ModuleType("rest_framework.schemas")
vars(_schemas)["DefaultSchema"] = object
sys.modules["rest_framework.schemas"] = _schemas
# Django's own logging and templates bring the debug pages and e-mail with them. logs.py is what logs here.
settings.LOGGING_CONFIG = None
settings.TEMPLATES = []
sys.modules |= dict.fromkeys(("inflection", "pygments", "uritemplate", "yaml"))  # type: ignore[arg-type]
django.setup()

from django.http import HttpRequest  # noqa: E402
from django.urls import Resolver404, get_resolver  # noqa: E402

from governance.gateway import errors, logs  # noqa: E402
from governance.gateway.body import ClientLeft  # noqa: E402
from governance.gateway.errors import CallRefused  # noqa: E402
from governance.gateway.exchange import Exchange  # noqa: E402
from governance.gateway.gateway import Gateway  # noqa: E402
from governance.gateway.http import send_whole, start_message, write_chunk  # noqa: E402
from governance.gateway.responses import GatewayResponse  # noqa: E402

log = logging.getLogger(__name__)

GC_ALLOCATIONS = 20_000
FIXED_PATHS = ("/v1/messages", "/v1/messages/count_tokens")


class GatewayRequest(HttpRequest):
    """What DRF needs of a request. Headers and body are read by the exchange, not through Django."""

    def __init__(self, exchange: Exchange) -> None:
        # Not the base's: it makes containers for queries, forms and cookies, which nobody here asks for.
        self.exchange = exchange
        self.method = exchange.method
        self.path = self.path_info = exchange.path


class GatewayHandler:
    """One per process. `gateway` is there between lifespan startup and shutdown."""

    def __init__(self) -> None:
        self.gateway: Gateway | None = None
        self._resolver = get_resolver("governance.gateway.urls")
        assert self._resolver.url_patterns  # loads the views now: a broken import must not wait for a call
        # The paths without a variable, found by a look-up instead of a search.
        self._fixed = {path: self._resolver.resolve(path).func for path in FIXED_PATHS}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            raise ValueError(f"The gateway does not speak {scope['type']}.")

    async def _live(self, receive: Any, send: Any) -> None:
        """Start and stop with the server. A failed start is loud: the server exits."""
        await receive()
        try:
            self.gateway = Gateway.from_settings(settings)
            await self.gateway.start()
        except Exception as error:
            log.exception("The gateway cannot start.")
            if self.gateway is not None:
                await self.gateway.stop()
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        _settle_garbage_collection()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.gateway.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        assert self.gateway is not None
        exchange = Exchange(self.gateway, scope, receive)
        try:
            try:
                response = await self._respond(exchange, scope)
            except ClientLeft:
                self.gateway.metrics.calls["cut", "client_left"] += 1
                if exchange.earlier is not None:
                    exchange.earlier.leave_nothing_open()
                return
            try:
                if response.stream is None:
                    _settle_soon(response)
                    await send_whole(send, response.status_code, response.wire_headers, response.body)
                else:
                    await _send_stream(exchange, response, receive, send)
            finally:
                if response.stream is not None and response.after is not None:
                    response.after()
                    response.after = None  # it refers back to the response
        finally:
            exchange.release()

    async def _respond(self, exchange: Exchange, scope: Any) -> GatewayResponse:
        try:
            exchange.read_headers(scope)
            scope["headers"] = ()  # a stream may be open for long
            view, arguments = self._fixed.get(exchange.path), {}
            if view is None:
                match = self._resolver.resolve(exchange.path)
                view, arguments = match.func, match.kwargs
        except CallRefused as error:
            return exchange.gateway.refuse(exchange, error.refusal)
        except Resolver404:
            return exchange.gateway.refuse(exchange, errors.not_found(exchange.path))
        response: GatewayResponse = await view(GatewayRequest(exchange), **arguments)
        return response


def _settle_garbage_collection() -> None:
    """What is loaded by now stays for good: never walk through it again, and look at the rest less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 20)


def _settle_soon(response: GatewayResponse) -> None:
    """Settle a whole reply, read or not, in the loop's turn after the next: its bytes leave at the end of
    this turn (http.py), and whoever reads them is not kept waiting."""
    if response.after is not None:
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, response.after)


async def _send_stream(exchange: Exchange, response: GatewayResponse, receive: Any, send: Any) -> None:
    """Write chunks as they come, and notice at once when the client leaves (http.py makes one leave that
    does not read).

    Leaving cancels nothing: it sets `client_left` and tells the stream, which ends by itself. So there is no
    moment, not even while the response is finishing, in which a cancellation could hit the settling.
    """
    stream = response.stream
    assert stream is not None
    watcher = asyncio.ensure_future(receive())
    watcher.add_done_callback(lambda done: None if done.cancelled() else exchange.leave())
    try:
        await send(start_message(response.status_code, response.wire_headers))
        response.wire_headers = ()
        async for chunk in stream:
            if not write_chunk(send, chunk):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if response.complete:
            await send({"type": "http.response.body"})
    finally:
        watcher.cancel()


logs.configure(os.environ.get("EXCHEQUER_LOG_LEVEL", "INFO"))
application = GatewayHandler()
