"""The texts that name a subject: an end user, a value of a tag, a session. Pure.

A caller chooses them, so they are bounded before they reach a row: a text that is long or cannot be
printed is kept as its digest.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

SUBJECT_LENGTH_MAX = 200
TIERS = ("haiku", "sonnet", "opus", "fable", "mythos")
"""What a budget on some models may name instead of a model; a model's family in the price book."""
CALLER_SCOPES = frozenset({"end_user", "tag", "session"})
"""Scopes whose subject each call names for itself."""
SUBJECT_NAMES = {
    "team": "team",
    "key": "API key",
    "end_user": "end user",
    "tag": "value of the tag",
    "session": "session",
}
"""Scopes that may have a pot for each subject → what people call one."""
_DIGEST = "sha256:"


def subject_text(text: str | None) -> str:
    """What a period row is kept under; "" for nothing said, which is the pot that such calls share."""
    text = (text or "").strip()
    if len(text) <= SUBJECT_LENGTH_MAX and text.isprintable() and not text.startswith(_DIGEST):
        return text
    return _DIGEST + hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Caller:
    """What one call says about itself, as far as budgets ask. `models`: ids and tiers that may serve it;
    None where the request leaves that to the Claude API, so that it could be any."""

    end_user: str | None = None
    session: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    models: frozenset[str] | None = frozenset()

    def subject(self, scope: str, tag: str) -> str:
        """The subject of that scope that the call names; "" where it names none. `tag`: the tag's name."""
        if scope == "tag":
            return subject_text(self.tags.get(tag))
        return subject_text(self.end_user if scope == "end_user" else self.session)

    def may_use(self, models_only: Iterable[str]) -> bool:
        """May one of these models or tiers serve the call?"""
        return self.models is None or not self.models.isdisjoint(models_only)
