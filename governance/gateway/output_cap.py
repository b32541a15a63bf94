"""A key's cap on output: lowers `max_tokens` in the client's own bytes, and nothing else in them.

Claude Code asks for 128,000 tokens on every call; the cap is what keeps its holds small. The lowered value is
put in place of the digits of the top-level key, and the result is read again: it must govern.
"""

import re

import msgspec

from governance.gateway.errors import CallRefused, invalid
from governance.gateway.json_limits import without_strings
from governance.gateway.request import Body, Request, is_given, read_request, value_of

_MAX_TOKENS = re.compile(rb'"max_tokens"\s*:\s*(\d+)')


def capped(request: Request, cap: int) -> Request:
    """The request asking for at most `cap` output tokens. CallRefused where that cannot be done."""
    if request.max_tokens <= cap:
        return request
    thinking = thinking_budget(request)
    if thinking >= cap:
        raise invalid(
            "thinking_above_cap",
            f"This key allows at most {cap:,} output tokens, which must be more than thinking.budget_tokens "
            f"({thinking:,}). Lower the thinking budget, or ask your administrator for a higher cap.",
        )
    if digits := _governing_digits(request.body):
        lowered = read_request(b"%b%d%b" % (request.body[: digits.start], cap, request.body[digits.stop :]))
        if lowered.max_tokens == cap:
            return lowered
    raise invalid(
        "max_tokens_above_cap",
        f"This key allows at most {cap:,} output tokens and the request asks for {request.max_tokens:,}. "
        "Lower max_tokens.",
    )


def _governing_digits(body: bytes) -> slice | None:
    """Where the value of the top-level `max_tokens` is; None where that key is spelled with escapes.

    One pass. The key stands outside text wherever it is found, because text would escape its quotes.
    """
    depth = position = 0
    for found in _MAX_TOKENS.finditer(body):
        between = without_strings(body[position : found.start()])[0]
        depth += between.count(b"{") + between.count(b"[") - between.count(b"}") - between.count(b"]")
        if depth == 1:
            return slice(*found.span(1))
        position = found.end()
    return None


def thinking_budget(request: Request) -> int:
    """How many tokens the request wants to think with at most; 0 where it does not say. CallRefused where
    that is not a number."""
    return thinking_budget_of(request.fields)


def thinking_budget_of(fields: Body) -> int:
    """The same, of a body that is not sent yet."""
    raw = (fields.thinking or {}).get("budget_tokens", msgspec.Raw())
    if not is_given(raw):
        return 0
    budget = value_of(raw, int)
    if budget is None:
        raise _wrong_budget()
    return budget


def _wrong_budget() -> CallRefused:
    return invalid("invalid_body", "thinking.budget_tokens: Input should be a valid integer")
