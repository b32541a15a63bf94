"""What a policy may look at. The gateway fills it in, and of what is dear only what some rule asks for."""

from collections.abc import Mapping
from datetime import datetime

import msgspec


class CallFacts(msgspec.Struct):
    """One call as asked, before anything was changed. See document.Match for what the fields mean.

    `text` is the last user message, as much of it as is looked at (TEXT_BYTES_MAX); `text_characters` is the
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


TEXT_BYTES_MAX = 16_384

TEXT, FEATURES, BUDGET_USED, TURN, END_USER = "text", "features", "budget_used", "turn", "end_user"
"""What Router.asks may have in it: the facts that cost something to find out (`turn` is `first_turn`)."""
