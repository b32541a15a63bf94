"""Form fields of the console."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from django import forms
from django.db.models import QuerySet
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from governance.core.money import nanos_to_usd, usd_to_nanos
from tenants.validators import time_zone_names, validate_tags


class UsdField(forms.CharField):
    """Dollars as a person writes them, nano-dollars as we keep them: exact, zero or more. None where it may
    be left empty and is."""

    widget = UnfoldAdminTextInputWidget

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=24, **kwargs)

    def clean(self, value: Any) -> int | None:
        text = str(super().clean(value)).strip().removeprefix("$").replace(",", "")
        if not text and not self.required:
            return None
        try:
            nanos = usd_to_nanos(text)
        except ValueError as error:
            raise forms.ValidationError(str(error)) from None
        if nanos < 0:
            raise forms.ValidationError("An amount is zero or more.")
        return nanos

    def prepare_value(self, value: Any) -> Any:
        return nanos_to_usd(value) if isinstance(value, int) else value

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return self.clean(data) != initial
        except forms.ValidationError:
            return True


class MomentField(forms.CharField):
    """A moment as a browser's date and time field writes it, in a time zone of the form's choosing."""

    widget = UnfoldAdminTextInputWidget(attrs={"type": "datetime-local"})

    def read_in(self, time_zone: str) -> None:
        """Read what is written as a wall clock there; say so beside the field."""
        self.zone = ZoneInfo(time_zone)
        self.help_text = f"{self.help_text} Date and time in {time_zone}.".strip()

    def clean(self, value: Any) -> datetime | None:
        text = str(super().clean(value) or "").strip()
        if not text:
            return None
        try:
            return datetime.fromisoformat(text).replace(tzinfo=self.zone)
        except ValueError:
            raise forms.ValidationError("Write a date and a time, such as 2026-12-24T18:00.") from None


class TagsField(forms.CharField):
    """One `name=value` a line ↔ {name: value}."""

    widget = UnfoldAdminTextareaWidget(attrs={"rows": 3})

    def clean(self, value: Any) -> dict[str, str]:
        tags: dict[str, str] = {}
        for line in str(super().clean(value) or "").splitlines():
            name, equals, text = line.partition("=")
            if not line.strip():
                continue
            if not equals:
                raise forms.ValidationError(f"Write each tag as name=value; “{line}” has no equals sign.")
            tags[name.strip()] = text.strip()
        validate_tags(tags)
        return tags

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else value

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return self.clean(data) != (initial or {})
        except forms.ValidationError:
            return True


def field_of[F: forms.Field](form: forms.BaseForm, name: str, kind: type[F]) -> F:
    """The form's field of that name, which is of that kind."""
    found = form.fields[name]
    assert isinstance(found, kind)
    return found


def offer(form: forms.BaseForm, name: str, rows: "QuerySet[Any]") -> None:
    """Let the field choose among these rows."""
    field_of(form, name, forms.ModelChoiceField).queryset = rows


def time_zone_choices() -> list[tuple[str, str]]:
    """IANA names for a select; UTC first."""
    names = sorted(name for name in time_zone_names() if "/" in name)
    return [("UTC", "UTC"), *((name, name) for name in names)]


def parse_percents(text: str) -> list[int]:
    """'50, 75, 90' → [50, 75, 90]. ValidationError unless each is 1 to 100."""
    try:
        percents = sorted({int(part) for part in text.replace("%", "").split(",") if part.strip()})
    except ValueError:
        raise forms.ValidationError("Write whole percents separated by commas, such as 50, 75, 90.") from None
    if any(not 1 <= percent <= 100 for percent in percents):
        raise forms.ValidationError("Each percentage is between 1 and 100.")
    return percents
