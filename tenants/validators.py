"""What text, tags and time zones may look like. The database holds the same rules as constraints."""

import re
import zoneinfo
from functools import lru_cache

from django.core.exceptions import ValidationError

CONTROL_CHARACTERS = r"[\u0001-\u001f\u007f-\u009f]"
"""Read the same way by Python and by PostgreSQL (which cannot store NUL at all)."""
_CONTROL_OR_NUL = re.compile(r"[\u0000-\u001f\u007f-\u009f]")

TAGS_MAX = 20
TAG_KEY_LENGTH_MAX = 64
TAG_VALUE_LENGTH_MAX = 256
LIST_LENGTH_MAX = 100
MODEL_LENGTH_MAX = 128


def validate_text(value: str) -> None:
    """ValidationError for NUL and control characters, which break logs, headers and exports."""
    if _CONTROL_OR_NUL.search(value):
        raise ValidationError(
            "Remove the control characters (line breaks, tabs and the like) from this text."
        )


@lru_cache(maxsize=1)
def time_zone_names() -> frozenset[str]:
    """Every IANA name that this machine knows; reading them from disk takes 20 ms, hence once."""
    return frozenset(zoneinfo.available_timezones())


def validate_time_zone(value: str) -> None:
    """ValidationError unless it is an IANA name such as Europe/Berlin."""
    if value not in time_zone_names():
        raise ValidationError(f"“{value}” is not an IANA time zone; write it like UTC or Europe/Berlin.")


def validate_tags(value: object) -> None:
    """ValidationError unless it is {text: text}: at most 20, keys to 64 and values to 256 characters."""
    if not isinstance(value, dict):
        raise ValidationError('Tags are an object of texts, such as {"feature": "search"}.')
    if len(value) > TAGS_MAX:
        raise ValidationError(f"At most {TAGS_MAX} tags; these are {len(value)}.")
    for key, text in value.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise ValidationError(f"The tag “{key}” must be a text with a text as its value.")
        validate_tag_name(key)
        validate_text(text)
        if len(text) > TAG_VALUE_LENGTH_MAX:
            raise ValidationError(
                f"The value of tag “{key}” is longer than {TAG_VALUE_LENGTH_MAX} characters."
            )


def validate_tag_name(value: str) -> None:
    """ValidationError unless it is 1 to 64 characters without control characters."""
    validate_text(value)
    if not 1 <= len(value) <= TAG_KEY_LENGTH_MAX:
        raise ValidationError(f"A tag's name has 1 to {TAG_KEY_LENGTH_MAX} characters; “{value}” has not.")
