"""A key's cap on output: lowers `max_tokens` in the client's own bytes, and nothing else in them.

Claude Code asks for 128,000 tokens on every call; the cap is what keeps its holds small. The lowered value is
put in place of the digits of the governing key, and the result is read again: it must govern.
"""

import re

import msgspec

from governance.gateway.errors import CallRefused, invalid
from governance.gateway.request import Request, RequestRefused, is_given, read_request

_MAX_TOKENS = re.compile(rb'"max_tokens"\s*:\s*(\d+)')


def capped(request: Request, cap: int) -> Request:
    """The request asking for at most `cap` output tokens. CallRefused where that cannot be done."""
    if request.max_tokens <= cap:
        return request
    thinking = _thinking_budget(request)
    if thinking >= cap:
        raise invalid(
            "thinking_above_cap",
            f"This key allows at most {cap:,} output tokens, which must be more than thinking.budget_tokens "
            f"({thinking:,}). Lower the thinking budget, or ask your administrator for a higher cap.",
        )
    for found in _MAX_TOKENS.finditer(request.body):
        start, end = found.span(1)
        body = b"%b%d%b" % (request.body[:start], cap, request.body[end:])
        try:
            lowered = read_request(body)
        except RequestRefused:
            continue
        if lowered.max_tokens == cap:
            return lowered
    raise invalid(
        "max_tokens_above_cap",
        f"This key allows at most {cap:,} output tokens and the request asks for {request.max_tokens:,}. "
        "Lower max_tokens.",
    )


def _thinking_budget(request: Request) -> int:
    raw = (request.fields.thinking or {}).get("budget_tokens", msgspec.Raw())
    if not is_given(raw):
        return 0
    try:
        return msgspec.json.decode(raw, type=int)
    except msgspec.ValidationError:
        raise _wrong_budget() from None


def _wrong_budget() -> CallRefused:
    return invalid("invalid_body", "thinking.budget_tokens: Input should be a valid integer")
