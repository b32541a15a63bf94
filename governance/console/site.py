"""The console's admin site: who may sign in, and how strict the browser is told to be."""

from collections.abc import Callable
from typing import Any

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.templatetags.static import static
from django.urls import path
from django.utils.csp import CSP
from django.views.decorators.csp import csp_override
from unfold.forms import AuthenticationForm
from unfold.sites import UnfoldAdminSite

from governance.console.access import access_of, load_access
from governance.console.dashboard import dashboard
from governance.console.response_cache_page import response_cache_context
from governance.console.savings_page import savings_context

# Alpine, which draws the menus, evaluates expressions from attributes; widths of bars are inline styles.
# There is no inline script, and nothing is loaded from or sent to anywhere else.
CONSOLE_CSP: dict[str, list[str]] = {
    "default-src": [CSP.NONE],
    "script-src": [CSP.SELF, CSP.UNSAFE_EVAL],
    "style-src": [CSP.SELF, CSP.UNSAFE_INLINE],
    "img-src": [CSP.SELF, "data:"],
    "font-src": [CSP.SELF],
    "connect-src": [CSP.SELF],
    "form-action": [CSP.SELF],
    "frame-src": [CSP.SELF],
    "frame-ancestors": [CSP.SELF],
    "base-uri": [CSP.NONE],
}


def stylesheet(request: HttpRequest) -> str:
    """Our own, for UNFOLD["STYLES"]."""
    return static("console/console.css")


class SignInForm(AuthenticationForm):
    """Members sign in whether or not Django calls them staff; what they see is decided by membership."""

    def confirm_login_allowed(self, user: User) -> None:
        if not load_access(user).is_member:
            raise ValidationError(
                "This account belongs to no tenant yet. Ask an administrator to make you a member.",
                code="no_membership",
            )


class ConsoleSite(UnfoldAdminSite):
    index_title = "Overview"
    index_template = "console/home.html"
    login_form = SignInForm

    def has_permission(self, request: HttpRequest) -> bool:
        return access_of(request).is_member

    def admin_view(self, view: Callable[..., HttpResponse], cacheable: bool = False) -> Callable[..., Any]:
        return csp_override(CONSOLE_CSP)(super().admin_view(view, cacheable))

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        view = csp_override(CONSOLE_CSP)(super().login)
        response: HttpResponse = view(request, extra_context)
        return response

    def get_urls(self) -> list[Any]:
        return [
            path("savings/", self.admin_view(self.savings), name="savings"),
            path("response-cache/", self.admin_view(self.response_cache), name="response_cache"),
            *super().get_urls(),
        ]

    def savings(self, request: HttpRequest) -> HttpResponse:
        context = {**self.each_context(request), "title": "Savings", **savings_context(request)}
        return TemplateResponse(request, "console/savings.html", context)

    def response_cache(self, request: HttpRequest) -> HttpResponse:
        context = {
            **self.each_context(request),
            "title": "Response cache",
            **response_cache_context(request),
        }
        return TemplateResponse(request, "console/response_cache.html", context)

    def search(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """No command palette: the side bar shows every page, and unfold would keep results in Redis."""
        raise Http404

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        return super().index(request, {**dashboard(request), **(extra_context or {})})


console_site = ConsoleSite(name="admin")
