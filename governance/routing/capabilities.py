"""What each model takes, and what has to change in a request that is moved from one model to another.

A table of our own, because prices say nothing of it: facts as of 2026-11-20, from Anthropic's pages on
thinking, effort and prefilled replies, and from the model profiles of clients. What is not known to be taken
counts as refused, so that a swap that is made is one that works. A model without a row is never swapped to.
"""

from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from typing import Any, Final, Literal, get_args

import msgspec

from governance.pricing.rates import ModelFacts
from governance.routing.document import Tier

ThinkingMode = Literal["adaptive", "enabled", "disabled", "between_tools"]
EFFORTS: Final = ("low", "medium", "high", "xhigh", "max")
TIERS: Final[tuple[Tier, ...]] = get_args(Tier)
"""From the cheapest to the dearest."""
RETIRING_DAYS: Final = 60
BUDGET_TOKENS_MIN: Final = 1_024
BUDGET_TOKENS_DEFAULT: Final = 8_192
THINKING_ROOM_TOKENS: Final = BUDGET_TOKENS_MIN
"""Of max_tokens, for thinking that nobody can turn off: it counts towards them, so with fewer the reply may
be empty. Anthropic names no figure; this is the smallest thinking budget that it takes."""

DEFAULT_TIERS: Final[Mapping[Tier, str]] = {
    "haiku": "claude-haiku-5-5",
    "sonnet": "claude-sonnet-5-5",
    "opus": "claude-opus-5-5",
    "fable": "claude-fable-5-2",
}
"""What a tier means where no policy says otherwise."""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What one model takes.

    thinking             the modes; one without `disabled` and `between_tools` always thinks. `enabled` is the
                         mode with budget_tokens
    thinks_unasked       whether it thinks where a request says nothing of thinking
    disabled_effort_max  the highest effort at which thinking can be off
    efforts              () where output_config.effort is refused
    system_messages      role `system` among the messages
    geo, fast            inference_geo; speed fast
    """

    thinking: frozenset[ThinkingMode]
    thinks_unasked: bool = False
    disabled_effort_max: str | None = None
    efforts: tuple[str, ...] = EFFORTS
    prefill: bool = False
    sampling: bool = False
    forced_tools: bool = True
    system_messages: bool = True
    geo: bool = True
    fast: bool = False


class RequestTraits(msgspec.Struct, frozen=True, kw_only=True):
    """What of a request decides where it can go; () and None: it does not have that.

    prompt_tokens     about how long the prompt is, rather too many than too few
    thinking          the body's `thinking` as an object
    thinks_unasked    the model that it is for now thinks where it says nothing of thinking
    effort            output_config.effort
    signed_thinking   some message holds thinking or redacted_thinking blocks
    prefill           the last message is the assistant's
    sampling          those of temperature, top_p and top_k that are given
    forced_tools      tool_choice is any or tool
    structured_output output_config.format, or a tool with strict
    system_messages   a message of role system
    bound_to_model    names of what belongs to one model and cannot be moved: computer use, an advisor tool,
                      a thread, compaction, server-side fallbacks
    """

    max_tokens: int
    prompt_tokens: int = 0
    thinking: Mapping[str, Any] | None = None
    thinks_unasked: bool = True
    effort: str | None = None
    signed_thinking: bool = False
    prefill: bool = False
    sampling: tuple[str, ...] = ()
    forced_tools: bool = False
    structured_output: bool = False
    system_messages: bool = False
    inference_geo: str | None = None
    speed: str | None = None
    bound_to_model: tuple[str, ...] = ()


class Edit(msgspec.Struct, frozen=True):
    """One change in the body: the value at `path` becomes `value`, or goes where that is None."""

    path: tuple[str, ...]
    value: Any = None


class Incompatibility(msgspec.Struct, frozen=True):
    """`edit` makes the request fit without loss of what was said in it; None: the swap must not be made.
    `name` is short and stable, for headers and facts; `sentence` says it to people."""

    name: str
    sentence: str
    edit: Edit | None = None


_TO_HIGH: Final = ("low", "medium", "high")
_TO_MAX_WITHOUT_XHIGH: Final = ("low", "medium", "high", "max")

_LITTLE_THINKING: Final[tuple[ThinkingMode, ...]] = ("disabled", "between_tools")

_ALWAYS_THINKS = Capabilities(thinking=frozenset({"adaptive"}), thinks_unasked=True, forced_tools=False)
_FABLE_5 = msgspec.structs.replace(_ALWAYS_THINKS, forced_tools=True)
_ADAPTIVE = Capabilities(thinking=frozenset({"adaptive", "disabled"}))
_5 = msgspec.structs.replace(_ADAPTIVE, thinks_unasked=True)
_4_6 = Capabilities(
    thinking=frozenset({"adaptive", "enabled", "disabled"}),
    efforts=_TO_MAX_WITHOUT_XHIGH,
    sampling=True,
    system_messages=False,
)
_4_5 = Capabilities(
    thinking=frozenset({"enabled", "disabled"}),
    efforts=(),
    prefill=True,
    sampling=True,
    system_messages=False,
    geo=False,
)

_TABLE: Final[Mapping[str, Capabilities]] = {
    "claude-fable-5-2": msgspec.structs.replace(_ALWAYS_THINKS, fast=True),
    "claude-mythos-5-2": msgspec.structs.replace(_ALWAYS_THINKS, fast=True),
    "claude-fable-5-1": _ALWAYS_THINKS,
    "claude-mythos-5-1": _ALWAYS_THINKS,
    "claude-fable-5": _FABLE_5,
    "claude-mythos-5": _FABLE_5,
    "claude-opus-5-5": msgspec.structs.replace(_ALWAYS_THINKS, fast=True),
    "claude-opus-5": msgspec.structs.replace(_5, disabled_effort_max="high", fast=True),
    "claude-opus-4-8": msgspec.structs.replace(_ADAPTIVE, fast=True),
    "claude-opus-4-7": msgspec.structs.replace(_ADAPTIVE, system_messages=False),
    "claude-opus-4-6": _4_6,
    "claude-opus-4-5-20251101": msgspec.structs.replace(_4_5, efforts=_TO_HIGH),
    "claude-sonnet-5-5": Capabilities(
        thinking=frozenset({"adaptive", "between_tools"}),
        thinks_unasked=True,
        disabled_effort_max="high",
        forced_tools=False,
    ),
    "claude-sonnet-5": _5,
    "claude-sonnet-4-6": _4_6,
    "claude-sonnet-4-5-20250929": _4_5,
    "claude-haiku-5-5": msgspec.structs.replace(_5, disabled_effort_max="high"),
    "claude-haiku-4-5-20251001": _4_5,
}


def capabilities_of(model: ModelFacts) -> Capabilities | None:
    """None for a model without a row."""
    return _TABLE.get(model.model_id)


def least_thinking(takes: Capabilities) -> ThinkingMode | None:
    """What to ask for where no thinking is wanted: without tools, neither mode has any. None: the model
    always thinks."""
    return next((mode for mode in _LITTLE_THINKING if mode in takes.thinking), None)


def tier_of(model: ModelFacts | None) -> Tier | None:
    """A model's family. Mythos counts as fable: the same model at the same price, for verified customers."""
    if model is None:
        return None
    family = "fable" if model.family == "mythos" else model.family
    return family if family in TIERS else None


def is_retired(model: ModelFacts, today: date) -> bool:
    """Does Anthropic answer it with 404 on that day?"""
    return model.status.startswith("retired") or (model.retires_on is not None and model.retires_on <= today)


def retires_soon(model: ModelFacts, today: date) -> bool:
    """Will it be retired within RETIRING_DAYS?"""
    return model.retires_on is not None and today < model.retires_on <= today + timedelta(days=RETIRING_DAYS)


def compatibility(
    target: ModelFacts | None, traits: RequestTraits, *, today: date, name: str = "this model"
) -> tuple[Incompatibility, ...]:
    """What stands between the request and the target; () means that it goes as it is. `target` is None for a
    model that the price book does not know, and `name` what it is called then."""
    takes = capabilities_of(target) if target is not None else None
    if target is None or takes is None:
        return (
            _never("unknown_model", f"It is not known what {target.model_id if target else name} takes."),
        )
    model = target.model_id
    if is_retired(target, today):
        return (_never("retired_model", f"{model} is retired."),)
    return (
        *_what_stays(target, takes, traits),
        *_thinking(model, takes, traits),
        *_effort(model, takes, traits),
        *_options(model, takes, traits),
        *_length(target, traits),
    )


def refusals(found: Iterable[Incompatibility]) -> tuple[Incompatibility, ...]:
    """Those for which there is no safe change: with one of them the swap must not be made."""
    return tuple(each for each in found if each.edit is None)


def _what_stays(target: ModelFacts, takes: Capabilities, traits: RequestTraits) -> Iterable[Incompatibility]:
    model = target.model_id
    for name in traits.bound_to_model:
        yield _never("bound_to_model", f"{name} belongs to the model that was asked.")
    if traits.signed_thinking:
        yield _never(
            "signed_thinking",
            "The conversation holds thinking that only the model that wrote it can read.",
        )
    if traits.prefill and not takes.prefill:
        yield _never("prefill", f"{model} takes no prefilled reply: the last message is the assistant's.")
    if traits.forced_tools and not takes.forced_tools:
        yield _never("forced_tools", f"{model} cannot be made to use a tool (tool_choice any or tool).")
    if traits.system_messages and not takes.system_messages:
        yield _never("system_messages", f"{model} takes no system message among the messages.")
    if traits.inference_geo is not None and not takes.geo:
        yield _never("inference_geo", f"{model} cannot be told where to run (inference_geo).")


def _thinking(model: str, takes: Capabilities, traits: RequestTraits) -> Iterable[Incompatibility]:
    asked = traits.thinking
    kind = asked.get("type") if asked else None
    if asked is None:
        if takes.thinks_unasked and not traits.thinks_unasked:
            yield from _less_thinking(model, takes, traits)
    elif kind in takes.thinking:
        return
    elif kind in _LITTLE_THINKING:
        yield from _less_thinking(model, takes, traits)
    elif kind in ("enabled", "adaptive"):
        yield _more_thinking(model, takes, asked, traits)
    else:
        yield _never("thinking", f"It is not known whether {model} takes thinking of type {str(kind)[:40]}.")


def _less_thinking(model: str, takes: Capabilities, traits: RequestTraits) -> Iterable[Incompatibility]:
    """The least thinking that the model has, for a request that has none or little where it is now."""
    least = least_thinking(takes)
    if least is not None:
        sentence = f"{model} thinks less only where it is told to, by thinking {least}."
        yield Incompatibility("thinking", sentence, Edit(("thinking",), {"type": least}))
    elif 0 < traits.max_tokens < THINKING_ROOM_TOKENS:
        yield _never(
            "thinking",
            f"{model} always thinks, and may think {traits.max_tokens:,} max_tokens away: it is asked for "
            f"{THINKING_ROOM_TOKENS:,} at least.",
        )
    elif traits.thinking is not None:
        yield Incompatibility("thinking", f"{model} always thinks.", Edit(("thinking",)))


def _more_thinking(
    model: str, takes: Capabilities, asked: Mapping[str, Any], traits: RequestTraits
) -> Incompatibility:
    """Thinking with a budget where it is adaptive, and the other way round."""
    shown = {"display": asked["display"]} if "display" in asked else {}
    if "adaptive" in takes.thinking:
        return Incompatibility(
            "thinking",
            f"{model} takes no budget_tokens: it decides itself how much it thinks.",
            Edit(("thinking",), {"type": "adaptive", **shown}),
        )
    budget = min(BUDGET_TOKENS_DEFAULT, traits.max_tokens // 2)
    if "enabled" not in takes.thinking or budget < BUDGET_TOKENS_MIN:
        return _never("thinking", f"{model} cannot think within {traits.max_tokens:,} max_tokens.")
    return Incompatibility(
        "thinking",
        f"{model} takes no adaptive thinking; it may think for {budget:,} tokens.",
        Edit(("thinking",), {"type": "enabled", "budget_tokens": budget, **shown}),
    )


def _effort(model: str, takes: Capabilities, traits: RequestTraits) -> Iterable[Incompatibility]:
    asked = traits.effort
    if asked is None:
        return
    path = ("output_config", "effort")
    if not takes.efforts:
        yield Incompatibility("effort", f"{model} takes no effort.", Edit(path))
        return
    if asked not in EFFORTS:
        yield _never("effort", f"It is not known whether {model} takes effort {asked[:40]}.")
        return
    allowed = takes.efforts
    if takes.disabled_effort_max and _thinks_little(takes, traits):
        allowed = allowed[: allowed.index(takes.disabled_effort_max) + 1]
    if asked not in allowed:
        lower = [effort for effort in allowed if EFFORTS.index(effort) < EFFORTS.index(asked)]
        yield Incompatibility(
            "effort", f"{model} takes effort {lower[-1]} at most here, not {asked}.", Edit(path, lower[-1])
        )


def _thinks_little(takes: Capabilities, traits: RequestTraits) -> bool:
    """Is thinking off where the request goes: because it says so, or will say so then?"""
    if traits.thinking is None:
        return takes.thinks_unasked and not traits.thinks_unasked
    return traits.thinking.get("type") in _LITTLE_THINKING


def _options(model: str, takes: Capabilities, traits: RequestTraits) -> Iterable[Incompatibility]:
    if not takes.sampling:
        for name in traits.sampling:
            yield Incompatibility(name, f"{model} takes no {name}.", Edit((name,)))
    if traits.speed is not None and traits.speed != "standard" and not takes.fast:
        yield Incompatibility("speed", f"{model} has no speed {traits.speed[:40]}.", Edit(("speed",)))


def _length(target: ModelFacts, traits: RequestTraits) -> Iterable[Incompatibility]:
    model, output_max = target.model_id, target.output_tokens_max
    max_tokens = min(traits.max_tokens, output_max)
    if traits.prompt_tokens + max_tokens > target.context_window_tokens:
        yield _never(
            "context",
            f"The request may need {traits.prompt_tokens + max_tokens:,} tokens; {model} has room for "
            f"{target.context_window_tokens:,}.",
        )
    if traits.max_tokens <= output_max:
        return
    budget = (traits.thinking or {}).get("budget_tokens")
    if traits.structured_output or traits.forced_tools or (isinstance(budget, int) and budget >= output_max):
        yield _never("max_tokens", f"{model} writes at most {output_max:,} tokens.")
    else:
        yield Incompatibility(
            "max_tokens", f"{model} writes at most {output_max:,} tokens.", Edit(("max_tokens",), output_max)
        )


def _never(name: str, sentence: str) -> Incompatibility:
    return Incompatibility(name, sentence)
