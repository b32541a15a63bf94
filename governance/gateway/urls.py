"""The addresses of a gateway worker. The console's are in governance/urls.py, in a process of its own."""

from django.urls import path, re_path

from governance.gateway import error_pages, health, views

urlpatterns = [
    path("v1/messages", views.MessagesView.as_view()),
    path("v1/messages/count_tokens", views.CountTokensView.as_view()),
    path("v1/models", views.ModelsView.as_view()),
    re_path(r"^v1/models/(?P<model>[A-Za-z0-9._:@-]{1,128})$", views.ModelsView.as_view()),
    path("api/oauth/usage", views.UsageView.as_view()),
    path("docs/errors", error_pages.all_errors),
    re_path(r"^docs/errors/(?P<reason>[a-z_]{1,64})$", error_pages.one_error),
    path("livez", health.livez),
    path("readyz", health.readyz),
    path("metrics", health.metrics),
]
