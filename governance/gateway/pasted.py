"""A request that was pasted into the console, read exactly as a call's body is: for previews of policies.

Nothing is sent or held. The console gets these two functions from governance/urls.py.
"""

from collections.abc import Mapping
from datetime import datetime

from governance.gateway.call_facts import is_first_turn, last_text
from governance.gateway.features import rule_features
from governance.gateway.request import Request, RequestRefused, read_request
from governance.gateway.rewrites.rewriting import About, rewritten
from governance.gateway.user_id import TEXT_LENGTH_MAX, end_user_of
from governance.pricing.book import PriceBook
from governance.routing.facts import CallFacts
from governance.routing.route import Route


def pasted_facts(
    body: bytes,
    *,
    tags: Mapping[str, str],
    key_public_id: str,
    team_id: int | None,
    at: datetime,
    latency: str,
    budget_used_percent: int | None,
) -> CallFacts:
    """All facts, the dear ones too. ValueError with the sentence that the call would be refused with."""
    request = _read(body)
    text, text_characters = last_text(request)
    return CallFacts(
        model=request.model,
        tags=tags,
        key_public_id=key_public_id,
        team_id=team_id,
        now=at,
        body_bytes=len(body),
        stream=request.stream,
        first_turn=is_first_turn(request),
        max_tokens=request.max_tokens,
        end_user=(end_user_of(request.user_id) or "")[:TEXT_LENGTH_MAX] or None,
        latency=latency,
        text=text,
        text_characters=text_characters,
        features=rule_features(request),
        budget_used_percent=budget_used_percent,
    )


def pasted_rewrites(
    body: bytes, route: Route, *, book: PriceBook, at: datetime, max_output_tokens: int | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(What the route changes in the request, sentences about what it cannot.) Marks for the prompt cache are
    left out: they depend on what came before."""
    sent = rewritten(_read(body), route, About(book=book, at=at, max_output_tokens=max_output_tokens))
    return sent.names, sent.reasons


def _read(body: bytes) -> Request:
    try:
        return read_request(body)
    except RequestRefused as refused:
        raise ValueError(refused.sentence) from None
