"""What a policy may look at. The gateway fills it in, and of what is dear only what some rule asks for."""

from collections.abc import Mapping
from datetime import datetime

import msgspec


class CallFacts(msgspec.Struct):
    """One call as asked, before anything was changed. See document.Match for what the fields mean.

    `text` is the last user message, as much of it as is looked at (`looked_at`); `text_characters` is the
    length of the whole one where that is more, so that the words of a long message are counted about right.
    `budget_used_percent` is None where no hard budget covers the call or its figures are not known.
    """

    model: str
    tags: Mapping[str, str]
    key_public_id: str
    team_id: int | None
    now: datetime
    body_bytes: int
    stream: bool
    first_turn: bool
    max_tokens: int
    end_user: str | None = None
    latency: str = "interactive"
    text: str = ""
    text_characters: int = 0
    features: frozenset[str] = frozenset()
    budget_used_percent: int | None = None


TEXT_CHARACTERS_MAX = 16_384
"""Looking for keywords takes 5 to 8 µs for each 1,000 characters of English, on every call."""
EXCERPT_CHARACTERS_MAX = 4_096
"""Where each character costs more: what a classifier is shown, what captures are looked for in."""

TEXT, FEATURES, BUDGET_USED, TURN, END_USER = "text", "features", "budget_used", "turn", "end_user"
"""What Router.asks may have in it: the facts that cost something to find out (`turn` is `first_turn`)."""


def looked_at(text: str) -> str:
    """A message, or the beginning and the end of a long one: there people say what they want."""
    return text if len(text) <= TEXT_CHARACTERS_MAX else _ends(text, TEXT_CHARACTERS_MAX)


def excerpt(text: str) -> str:
    """Less of it: also of what was cut by `looked_at` already, whose ends are the message's."""
    return text if len(text) <= EXCERPT_CHARACTERS_MAX else _ends(text, EXCERPT_CHARACTERS_MAX)


def _ends(text: str, characters: int) -> str:
    half = characters // 2
    return f"{text[: half - 1]}\n{text[-half:]}"
