"""Pages of our own inside the console's frame."""

from typing import Any

from django.db.models import Model
from django.forms import Form
from django.http import HttpRequest, HttpResponse, QueryDict
from django.template.response import TemplateResponse
from django.urls import reverse

from governance.console.base import ConsoleAdmin


def posted(request: HttpRequest) -> QueryDict | None:
    """What a form is bound to: nothing at all before it was sent, even if it has no fields."""
    return request.POST if request.method == "POST" else None


def form_page(
    page: ConsoleAdmin,
    request: HttpRequest,
    form: Form,
    *,
    title: str,
    submit: str,
    explanation: str,
    back: Model,
    danger: bool = False,
) -> HttpResponse:
    """One question about one row, with a button that does it and a link back to the row."""
    opts = back._meta
    context: dict[str, Any] = {
        **page.admin_site.each_context(request),
        "title": title,
        "opts": opts,
        "original": back,
        "form": form,
        "button": submit,
        "explanation": explanation,
        "danger": danger,
        "back_url": reverse(f"admin:{opts.app_label}_{opts.model_name}_change", args=[back.pk]),
    }
    return TemplateResponse(request, "console/form_page.html", context)
