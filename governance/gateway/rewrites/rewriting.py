"""What a route changes in a request, in one fixed order:

    model            another model, and what it needs             model
    thinking         none, where nobody asked for it              thinking-off
    history          the beginning of a long conversation goes    history(-12): so many messages
    system           the system prompt, after it or instead       system
    concise          an instruction at its end                    concise
    json output      a format for the reply                       json-output
    output           max_tokens, stop sequences                   max-tokens, stop-sequences

The model comes first because it decides what the others may do, and thinking next because text may change
only where no thinking is signed over it. A rewrite that cannot be made is left out and says why; the others
are made all the same. The result is read again like any request: it is what is bound, held and sent. Without
a rule for any of them the request is the very same object.

`marked` is a step of its own, for when it is known that the call is really sent: an answer that was kept
needs no prompt cache, and is found by the prompt without marks.

    prompt cache     breakpoints where they pay                   prompt-cache(2): so many
"""

from collections.abc import Callable
from datetime import datetime

import msgspec

from governance.gateway.request import ABSENT, Request, RequestRefused
from governance.gateway.rewrites import (
    history,
    json_output,
    model,
    output,
    prompt_cache,
    system,
    thinking,
)
from governance.gateway.rewrites.binding import bound
from governance.gateway.rewrites.draft import Draft, NotDone, draft_of
from governance.gateway.rewrites.prompt_cache import Caller
from governance.pricing.book import PriceBook
from governance.pricing.rates import ModelFacts
from governance.routing.capabilities import capabilities_of
from governance.routing.document import PromptCache
from governance.routing.route import Route


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What else decides.

    book, at             prices, and when the call started (aware)
    max_output_tokens    the key's own cap
    conversation_model   the model that answered the conversation so far, where that is known: the thinking in
                         its history is that model's
    summary              of what the history window takes away, where somebody made one
    """

    book: PriceBook
    at: datetime
    max_output_tokens: int | None = None
    conversation_model: str | None = None
    summary: str | None = None


class Rewritten(msgspec.Struct, frozen=True):
    """`names` of what was done, in its order; `reasons`: a sentence for each that was not.

    removed_bytes   by how much system prompt and messages became shorter, media left out; below zero: longer
    prompt_prefix   of `marked`: prompt_cache_memory.Memory.learn is told the reply's usage under it
    """

    request: Request
    names: tuple[str, ...] = ()
    removed_bytes: int = 0
    reasons: tuple[str, ...] = ()
    prompt_prefix: bytes | None = None

    @property
    def cuts_history(self) -> bool:
        return any(name.startswith("history") for name in self.names)

    @property
    def header(self) -> str:
        """The value of `exchequer-rewrites`."""
        return ", ".join(self.names)


def rewritten(request: Request, route: Route, about: About) -> Rewritten:
    """The request as the route wants it."""
    if not has_rewrites(route):
        return Rewritten(request)
    work = _Work(draft_of(request), about)
    first = work.draft
    if route.model is not None and route.model != request.model:
        target, source = about.book.model(route.model), about.book.model(request.model)
        if target is None or target is not source:
            name = route.model
            today, is_on_it = about.at.date(), name == about.conversation_model
            work.do(
                "model",
                lambda draft: model.swapped(draft, target, name, today, source=source, is_on_it=is_on_it),
            )
    if route.thinking_off:
        work.do("thinking-off", lambda draft: thinking.off(draft, work.target))
    if route.history is not None:
        work.cut(route)
    if route.system is not None:
        prompt = route.system
        work.say("system", lambda draft: system.prompt(draft, prompt))
    if route.concise is not None:
        text = route.concise
        work.say("concise", lambda draft: system.appended(draft, text))
    if route.json_output is not None:
        work.ask_for_json(route)
    work.limit(route)
    removed_bytes = _prompt_bytes(first) - _prompt_bytes(work.draft)
    if work.draft is first:
        return Rewritten(request, reasons=tuple(work.reasons))
    try:
        result = work.draft.request()
    except RequestRefused as error:
        return Rewritten(request, reasons=(*work.reasons, f"the rewritten request is refused: {error}"))
    removed_bytes -= media_bytes(request) - media_bytes(result)
    return Rewritten(result, tuple(work.names), removed_bytes, tuple(work.reasons))


def marked(request: Request, terms: PromptCache, book: PriceBook, at: datetime, caller: Caller) -> Rewritten:
    """The request marked for the prompt cache; `prompt_prefix` says under what its reply is to be learned."""
    if request.cache_ttl is not None:
        return Rewritten(request, reasons=("prompt-cache: the client marks its own prompt",))
    found = prompt_cache.marked(draft_of(request), terms, book.model(request.model), book, at, caller)
    changing = () if found.changing is None else (f"prompt-cache: {found.changing}",)
    if isinstance(found.draft, NotDone):
        return Rewritten(request, reasons=(f"prompt-cache: {found.draft.why}", *changing))
    try:
        result = found.draft.request()
    except RequestRefused as error:
        return Rewritten(request, reasons=(f"prompt-cache: the marked request is refused: {error}",))
    return Rewritten(result, (f"prompt-cache({found.breakpoints})",), 0, changing, found.prefix)


def has_rewrites(route: Route) -> bool:
    """Whether the route asks for any of them."""
    return any(
        (
            route.model is not None,
            route.thinking_off,
            route.history is not None,
            route.system is not None,
            route.concise is not None,
            route.json_output is not None,
            route.max_tokens_cap is not None,
            route.max_tokens_set is not None,
            route.stop_sequences,
        )
    )


def media_bytes(request: Request) -> int:
    """Of images and documents, whose bytes say nothing of their tokens."""
    return sum(len(value) for media in request.media if media.source for value in media.source.values())


class _Work:
    """The draft as it stands, and what was done and not done to it so far."""

    def __init__(self, draft: Draft, about: About) -> None:
        self.draft = draft
        self.about = about
        self.names: list[str] = []
        self.reasons: list[str] = []

    @property
    def target(self) -> ModelFacts | None:
        return self.about.book.model(self.draft.fields.model)

    def do(self, name: str, rewrite: Callable[[Draft], Draft | NotDone]) -> None:
        before, after = self.draft, rewrite(self.draft)
        if isinstance(after, NotDone):
            self.reasons.append(f"{name}: {after.why}")
        elif after is not before:
            self.draft = after
            self.names.append(name)

    def say(self, name: str, rewrite: Callable[[Draft], Draft | NotDone]) -> None:
        """A rewrite of what thinking may be signed over."""
        self.do(name, lambda draft: bound(draft.fields, self.target) or rewrite(draft))

    def cut(self, route: Route) -> None:
        terms = route.history
        assert terms is not None
        before = self.draft
        if len(before.fields.messages) <= terms.above_messages:
            return
        self.say("history", lambda draft: history.window(draft, terms, self.about.summary))
        if self.draft is not before:
            gone = len(before.fields.messages) - len(self.draft.fields.messages)
            self.names[-1] = f"history(-{gone})"
            if terms.summarise and self.about.summary is None:
                self.reasons.append("history: what was cut is not summarised, because there is no summary")

    def ask_for_json(self, route: Route) -> None:
        terms, target = route.json_output, self.target
        assert terms is not None
        if target is None or capabilities_of(target) is None:
            self.reasons.append(f"json-output: it is not known what {self.draft.fields.model} takes")
        else:
            self.do("json-output", lambda draft: json_output.json_output(draft, terms.schema))

    def limit(self, route: Route) -> None:
        cap, replacement = route.max_tokens_cap, route.max_tokens_set
        if cap is not None or replacement is not None:
            target, own = self.target, self.about.max_output_tokens
            limits = [] if target is None else [target.output_tokens_max]
            most = min([*limits, own] if own is not None else limits, default=None)
            self.do("max-tokens", lambda draft: output.output_tokens(draft, cap, replacement, most))
        if route.stop_sequences:
            self.do("stop-sequences", lambda draft: output.stops(draft, route.stop_sequences))


def _prompt_bytes(draft: Draft) -> int:
    return len(draft.raw.get("system", ABSENT)) + len(draft.raw["messages"])
