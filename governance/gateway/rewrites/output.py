"""How much output is asked for, and where it stops: `max_tokens` and `stop_sequences`."""

from governance.gateway.errors import CallRefused
from governance.gateway.output_cap import thinking_budget_of
from governance.gateway.rewrites.draft import Draft, NotDone


def output_tokens(
    draft: Draft, cap: int | None, replacement: int | None, most: int | None
) -> Draft | NotDone:
    """`cap` lowers max_tokens, `replacement` takes its place, raised or lowered; `most` is what the key and
    the model allow at most. None: no such term.

    Thinking counts towards max_tokens, so a request with a thinking budget gets at least that and a token;
    and where the budget alone is as large as the cap, the cap counts for the answer after it. `max_tokens: 0`
    asks for no answer at all, only for the prompt to be cached: it stays.
    """
    asked = draft.fields.max_tokens
    if asked == 0:
        return NotDone("the request asks for no output")
    try:
        budget = thinking_budget_of(draft.fields)
    except CallRefused:
        return NotDone("thinking.budget_tokens is no number")
    wanted = asked if replacement is None else replacement
    if cap is not None:
        wanted = min(wanted, cap)
    if wanted <= budget:
        wanted = budget + wanted if replacement is not None else min(asked, budget + wanted)
    if most is not None:
        wanted = min(wanted, most)
    if wanted <= budget:
        return NotDone(f"the request wants to think with {budget:,} tokens, more than it may have")
    return draft if wanted == asked else draft.with_value("max_tokens", wanted)


def stops(draft: Draft, added: tuple[str, ...]) -> Draft:
    """The client's stop sequences stay, in front. One of nothing but white space is refused upstream: left
    out."""
    given = draft.fields.stop_sequences or []
    wanted = [*given, *(stop for stop in added if stop not in given and not stop.isspace())]
    return draft if len(wanted) == len(given) else draft.with_value("stop_sequences", wanted)
