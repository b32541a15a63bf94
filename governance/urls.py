"""Addresses of the console process. The Claude proxy has its own: governance/gateway/urls.py."""

from functools import cache
from typing import Any

from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.generic import RedirectView

import governance.console.admin  # noqa: F401  registers the pages; gateway workers do without them
from governance.console.policy_preview import read_pasted_with
from governance.console.site import console_site


@cache
def gateway_schema() -> dict[str, Any]:
    from governance.gateway import schema  # on first use: the console does without the proxy's libraries

    return schema.gateway_schema()


def openapi(request: HttpRequest) -> JsonResponse:
    """GET /openapi.json: the gateway's addresses as OpenAPI. It names no tenant, so anybody may read it."""
    return JsonResponse(gateway_schema())


def pasted() -> Any:
    """How the proxy reads a body: the console shows what policies make of one, and must not know itself."""
    from governance.gateway import pasted

    return pasted


read_pasted_with(pasted)

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("openapi.json", openapi, name="openapi"),
    path("admin/", console_site.urls),
]
