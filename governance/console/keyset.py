"""Lists of facts that may have millions of rows: newest first, paged by id, never counted.

A fact's id carries its time (UUIDv7), so a time window is a range of ids: one index range, and only the
partitions that it touches.
"""

import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.contrib.admin import SimpleListFilter
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from unfold.views import ChangeList

from governance.console.base import ReadOnlyAdmin
from governance.core.clock import utcnow
from governance.core.ids import id_floor

BEFORE = "before"
ROWS_PER_PAGE = 50
WINDOWS: dict[str, tuple[str, timedelta | None]] = {
    "1h": ("Last hour", timedelta(hours=1)),
    "24h": ("Last 24 hours", timedelta(hours=24)),
    "7d": ("Last 7 days", timedelta(days=7)),
    "31d": ("Last 31 days", timedelta(days=31)),
    "all": ("All", None),
}


def parse_id(text: str) -> uuid.UUID | None:
    """A fact's id as a person pastes it, or None."""
    try:
        return uuid.UUID(text.strip())
    except ValueError:
        return None


class WindowFilter(SimpleListFilter):
    """The last 24 hours unless told. A search for one id looks everywhere."""

    title = "time"
    parameter_name = "window"
    default = "24h"

    def __init__(self, request: HttpRequest, *args: Any) -> None:
        super().__init__(request, *args)
        self.searches_one_id = parse_id(request.GET.get("q", "")) is not None

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, label) for name, (label, _) in WINDOWS.items()]

    def value(self) -> str:
        chosen = super().value()
        return chosen if chosen in WINDOWS else self.default

    def choices(self, changelist: Any) -> Iterator[Any]:
        for name, label in self.lookup_choices:
            yield {
                "selected": self.value() == name,
                "query_string": changelist.get_query_string({self.parameter_name: name}, [BEFORE]),
                "display": label,
            }

    def queryset(self, request: HttpRequest, queryset: "QuerySet[Any]") -> "QuerySet[Any]":
        span = WINDOWS[self.value()][1]
        if span is None or self.searches_one_id:
            return queryset
        oldest_ms = int((utcnow() - span).timestamp() * 1000)
        return queryset.filter(pk__gte=id_floor(oldest_ms))


class KeysetPages(Paginator):
    """What the page's footer needs instead of page numbers; nothing is counted."""

    template_name = "console/keyset_pages.html"
    newest_url: str | None = None
    older_url: str | None = None


class KeysetChangeList(ChangeList):
    """`?before=ID` continues below that id."""

    def get_filters_params(self, params: Any = None) -> dict[str, Any]:
        found: dict[str, Any] = super().get_filters_params(params)
        found.pop(BEFORE, None)
        return found

    def get_ordering(self, request: HttpRequest, queryset: "QuerySet[Any]") -> list[str]:
        return ["-pk"]

    def get_results(self, request: HttpRequest) -> None:
        rows = self.queryset
        before = parse_id(request.GET.get(BEFORE, ""))
        if before is not None:
            rows = rows.filter(pk__lt=before)
        found = list(rows[: self.list_per_page + 1])
        self.result_list = found[: self.list_per_page]
        self.model_admin.add_names(self.result_list)
        self.result_count = self.full_result_count = len(self.result_list)
        self.show_full_result_count = self.can_show_all = self.multi_page = self.show_admin_actions = False
        self.paginator = KeysetPages(self.result_list, self.list_per_page)
        if before is not None:
            self.paginator.newest_url = self.get_query_string(remove=[BEFORE])
        if len(found) > self.list_per_page:
            self.paginator.older_url = self.get_query_string({BEFORE: str(self.result_list[-1].pk)})


class FactAdmin(ReadOnlyAdmin):
    """Read-only, newest first, the last 24 hours unless told."""

    list_per_page = ROWS_PER_PAGE
    sortable_by = ()
    list_filter: tuple[Any, ...] = (WindowFilter,)
    list_filter_options = {"window": {"horizontal": True, "label": None}}

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return KeysetChangeList

    def add_names(self, rows: list[Any]) -> None:
        """Look up, once for the page, what the rows refer to by id."""

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Model | None:
        return super().get_object(request, object_id, from_field) if parse_id(object_id) else None
