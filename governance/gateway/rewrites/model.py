"""Another model for the client's request, with the changes that it needs and that lose nothing.

What each model takes is routing/capabilities.py's to say. `anthropic-beta` headers stay: a model ignores what
is not for it. An output limit above the target's is lowered to it, unless the reply must be whole.
"""

import re
from datetime import date

import msgspec

from governance.gateway.request import ABSENT, Body, Fields, block_type, is_given, value_of
from governance.gateway.rewrites.draft import Draft, NotDone, holds_signed_thinking, is_of_type, without_key
from governance.pricing.rates import ModelFacts
from governance.routing.capabilities import Edit, RequestTraits, capabilities_of, compatibility, refusals

_BYTES_PER_TOKEN = 3
"""Fewer than text has: rather too many tokens than too few."""
_IMAGE_TOKENS = 4_800
_IMAGE = frozenset({b'"image"'})
_BOUND_TOOL = re.compile(r"(computer|advisor)_\d{8}$")
_BOUND_FIELDS = ("thread", "compaction", "fallbacks", "fallback_credit_token")
_COMPACTION = b"compact_"
_SAMPLING = ("temperature", "top_p", "top_k")
_FORCED = ("any", "tool")


def swapped(
    draft: Draft,
    target: ModelFacts | None,
    name: str,
    today: date,
    *,
    source: ModelFacts | None,
    is_on_it: bool = False,
) -> Draft | NotDone:
    """The draft for the model called `name` (`target` is what the price book knows of it, `source` of the one
    that it is for now). NotDone with what stands in the way. `is_on_it`: that model answered the conversation
    so far, so its thinking is its own."""
    traits = traits_of(draft, source)
    if is_on_it:
        traits = msgspec.structs.replace(traits, signed_thinking=False)
    found = compatibility(target, traits, today=today, name=name)
    if against := refusals(found):
        return NotDone(" ".join(each.sentence for each in against))
    for each in found:
        assert each.edit is not None  # else it is a refusal
        draft = _edited(draft, each.edit)
    return draft.with_value("model", name)


def traits_of(draft: Draft, source: ModelFacts | None) -> RequestTraits:
    """What of the request decides where it can go."""
    fields = draft.fields
    takes = capabilities_of(source) if source is not None else None
    config = fields.output_config or {}
    choice = fields.tool_choice or {}
    return RequestTraits(
        max_tokens=fields.max_tokens,
        prompt_tokens=prompt_tokens(draft),
        thinking=_thinking(fields.thinking),
        thinks_unasked=takes is None or takes.thinks_unasked,
        effort=value_of(config.get("effort", ABSENT), str),
        signed_thinking=holds_signed_thinking(fields),
        prefill=bool(fields.messages) and fields.messages[-1].role == "assistant",
        sampling=tuple(name for name in _SAMPLING if is_given(getattr(fields, name))),
        forced_tools=value_of(choice.get("type", ABSENT), str) in _FORCED,
        structured_output=is_given(config.get("format", ABSENT))
        or any(value_of(tool.get("strict", ABSENT), bool) for tool in fields.tools or ()),
        system_messages=any(message.role == "system" for message in fields.messages),
        inference_geo=fields.inference_geo,
        speed=fields.speed,
        bound_to_model=_bound_to_model(fields),
    )


def prompt_tokens(draft: Draft) -> int:
    """About how long the prompt is, rather too many tokens than too few. An image counts as the largest."""
    size = sum(map(len, draft.raw.values()))
    images = 0
    for message in draft.fields.messages:
        if not isinstance(message.content, str):
            for block in message.content:
                if is_of_type(block, _IMAGE):
                    size -= len(block.get("source", ABSENT))
                    images += 1
    return size // _BYTES_PER_TOKEN + images * _IMAGE_TOKENS


def _bound_to_model(fields: Body) -> tuple[str, ...]:
    found = [name for name in _BOUND_FIELDS if is_given(getattr(fields, name))]
    found += [kind for tool in fields.tools or () if _BOUND_TOOL.match(kind := block_type(tool))]
    if fields.context_management and _COMPACTION in b"".join(map(bytes, fields.context_management.values())):
        found.append("compaction")
    return tuple(found)


def _thinking(given: Fields | None) -> dict[str, object] | None:
    """As an object; a type that is no text is an unknown one."""
    if given is None:
        return None
    found = {name: value_of(raw, object) for name, raw in given.items()}
    return found | {"type": str(found.get("type"))}


def _edited(draft: Draft, edit: Edit) -> Draft:
    """One change made; a path is a top-level field, or a key in one."""
    name, *inside = edit.path
    if not inside:
        return draft.without(name) if edit.value is None else draft.with_value(name, edit.value)
    given: Fields = getattr(draft.fields, name) or {}
    left = without_key(given, inside[0])
    if edit.value is None:
        return draft.with_value(name, left) if left else draft.without(name)
    return draft.with_value(name, {**given, inside[0]: edit.value})
