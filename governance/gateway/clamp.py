"""A call that does not fit in a budget, made with fewer `max_tokens`: what its key and its request allow.

A shorter answer must still be an answer. So it is never done to a request whose reply is worth nothing when
it is cut (structured output, a forced tool call), nor under the key's floor or a thinking budget, nor where
`max_tokens` does not bound the cost.
"""

from governance.gateway.bound import max_tokens_within
from governance.gateway.errors import CallRefused
from governance.gateway.exchange import Exchange
from governance.gateway.output_cap import capped, thinking_budget
from governance.gateway.request import ABSENT, Request, is_given, value_of

CLAMP_TRIES_MAX = 3
"""Several budgets may refuse, and others take the room meanwhile."""
_FREE_CHOICES: tuple[str | None, ...] = ("auto", "none")


def least_max_tokens(exchange: Exchange) -> int | None:
    """The fewest `max_tokens` that the call may be made with; None where they may not be lowered."""
    floor, request = exchange.key.clamp_floor_tokens, exchange.request
    if floor is None or exchange.bound == "unbounded" or _must_be_whole(request):
        return None
    try:
        least = max(floor, thinking_budget(request) + 1)
    except CallRefused:
        return None
    return least if least < request.max_tokens else None


def lowered(exchange: Exchange, room_nanos: int, least: int) -> Request | None:
    """The request with the most `max_tokens`, fewer than it asks for, whose worst case is at most
    `room_nanos`; None where those are fewer than `least`, which `exchange.decision` then says."""
    max_tokens = max_tokens_within(exchange, room_nanos)
    if max_tokens is None:
        return None
    if max_tokens < least:
        exchange.decision["clamp_floor"] = least
        return None
    try:
        return capped(exchange.request, max_tokens)
    except CallRefused:  # spelled in a way that cannot be rewritten
        return None


def _must_be_whole(request: Request) -> bool:
    """Whether half of the reply may be useless. A field that we do not know may ask for anything."""
    fields = request.fields
    if request.unknown_fields:
        return True
    if fields.output_config and is_given(fields.output_config.get("format", ABSENT)):
        return True
    choice = fields.tool_choice
    return choice is not None and value_of(choice.get("type", ABSENT), str) not in _FREE_CHOICES
