"""Every console request runs in the scope of the person who is signed in."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from governance.console.access import load_access
from tenants.scope import platform_scope, tenant_scope


class TenantScopeMiddleware:
    """Sets `request.access` and the tenant scope. Not signed in: no scope, so tenant rows raise."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if not request.user.is_authenticated:
            return self.get_response(request)
        access = load_access(request.user)
        vars(request)["access"] = access
        with platform_scope() if access.is_platform else tenant_scope(*access.tenant_ids):
            return self.get_response(request)
