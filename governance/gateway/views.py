"""The Claude API's endpoints as DRF views, with an async dispatch that never leaves the event loop.

Authentication and permission classes are DRF's own kind and must not block: whatever may wait for the
database (finding the key) is awaited before them. Errors are Anthropic's envelope. What a schema says of
these views is in schema.py, which a gateway worker never imports.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from rest_framework.exceptions import MethodNotAllowed
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.request import Request
from rest_framework.views import APIView

from governance.gateway import errors, pipeline
from governance.gateway.authentication import KeyAuthentication, TenantIsActive, find_key
from governance.gateway.body import ClientLeft
from governance.gateway.errors import CallRefused
from governance.gateway.exchange import Exchange
from governance.gateway.responses import PRIVATE, GatewayResponse

log = logging.getLogger(__name__)


class LeanAPIView(APIView):
    """An APIView without negotiation, renderers, parsers or threads. Answers with GatewayResponse."""

    authentication_classes = (KeyAuthentication,)
    permission_classes = (TenantIsActive,)
    throttle_classes = ()
    _authenticators = (KeyAuthentication(),)
    _permissions = (TenantIsActive(),)
    _negotiator = BaseContentNegotiation()

    async def dispatch(  # type: ignore[override]  # awaited by asgi.py
        self, request: Any, *args: Any, **kwargs: Any
    ) -> GatewayResponse:
        self.exchange: Exchange = request.exchange
        exchange = self.exchange
        try:
            exchange.key = await find_key(exchange.inbound.credentials, exchange.gateway.store)
            self.request = self.initialize_request(request, *args, **kwargs)
            self.initial(self.request, *args, **kwargs)
            handler = getattr(self, exchange.method.lower(), None)
            if handler is None or exchange.method == "OPTIONS":
                raise MethodNotAllowed(exchange.method)
            response: GatewayResponse = await handler(self.request, **kwargs)
        except ClientLeft:
            raise  # nobody is there to be answered
        except Exception as error:
            response = self.handle_exception(error)  # type: ignore[assignment]  # what _refuse returns
        return response

    def initialize_request(self, request: Any, *args: Any, **kwargs: Any) -> Request:
        lean = Request(request, authenticators=self._authenticators, negotiator=self._negotiator)
        lean.parser_context.clear()  # it refers to the request: only a garbage collection could free them
        return lean

    def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
        request._authenticate()
        for permission in self._permissions:
            permission.has_permission(request, self)

    def get_exception_handler(self) -> Callable[[Exception, Mapping[str, Any]], GatewayResponse]:
        return _refuse


def _refuse(error: Exception, context: Mapping[str, Any]) -> GatewayResponse:
    """DRF's EXCEPTION_HANDLER of these views: every exception ends as a refusal in the envelope."""
    view: LeanAPIView = context["view"]
    exchange = view.exchange
    if isinstance(error, CallRefused):
        refusal = error.refusal
    elif isinstance(error, MethodNotAllowed):
        allowed = [method for method in view.allowed_methods if method != "OPTIONS"]
        refusal = errors.method_not_allowed(exchange.method, ", ".join(allowed))
    else:
        log.error("Call %s failed.", exchange.id, exc_info=error)
        refusal = errors.INTERNAL
    return exchange.gateway.refuse(exchange, refusal)


class MessagesView(LeanAPIView):
    """POST /v1/messages: a governed call."""

    async def post(self, request: Request) -> GatewayResponse:
        return await pipeline.create_message(self.exchange)


class CountTokensView(LeanAPIView):
    """POST /v1/messages/count_tokens: free, relayed, recorded."""

    async def post(self, request: Request) -> GatewayResponse:
        return await pipeline.relay_free(self.exchange)


class ModelsView(LeanAPIView):
    """GET /v1/models and /v1/models/{model}: free, relayed, recorded."""

    async def get(self, request: Request, **_: str) -> GatewayResponse:
        return await pipeline.relay_free(self.exchange)


class UsageView(LeanAPIView):
    """GET /api/oauth/usage: what the key's budgets have left."""

    async def get(self, request: Request) -> GatewayResponse:
        exchange = self.exchange
        body = await exchange.gateway.usage_reports.of_key(exchange.key)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *PRIVATE,
        ]
        return GatewayResponse(200, headers, body)
