"""Addresses of the console process. The Claude proxy has its own: governance/gateway/urls.py."""

from django.urls import path
from django.views.generic import RedirectView

import governance.console.admin  # noqa: F401  registers the pages; gateway workers do without them
from governance.console.site import console_site

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/", console_site.urls),
]
