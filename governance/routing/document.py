"""The language of a routing policy: what its YAML may say, field by field.

A policy is an ordered list of rules. A rule's `when` must match the call and its `unless` must not; left
out, they match every call and none. Inside a match all fields must hold, and of a list any value will do.
The actions of all matching rules add up; where two say something of the same kind the first one counts,
except that any `deny` denies and the smallest `max_tokens` cap holds. Unknown fields are refused, so that a
misspelled condition cannot match everything.

    tiers:
      opus: claude-opus-5                  # what a tier means here
    rules:
      - name: FAQ answers may be an hour old
        when: {tags: {endpoint: faq}, turn: first}
        then: {cache: {ttl_seconds: 3600, scope: team}}
      - name: Small questions go to Haiku
        when: {tiers: [opus, sonnet], words: {at_most: 80}}
        unless: {has_any: [tools, thinking]}
        then: {route: {tier: haiku}, max_tokens: {cap: 2000}}
      - name: No poems at night
        when: {keywords: {any: [poem, haiku]}, time: {zone: Europe/Berlin, from: "22:00", to: "06:00"}}
        then: {deny: Poems are written between 6:00 and 22:00.}
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Tier = Literal["haiku", "sonnet", "opus", "fable"]
LatencyClass = Literal["interactive", "background", "batch"]
Feature = Literal["tools", "images", "documents", "thinking", "system", "structured_output", "cache_control"]
CascadeCheck = Literal["refusal", "truncation", "json", "hedging"]

type Name = Annotated[str, Meta(min_length=1, max_length=80)]
type ModelName = Annotated[str, Meta(min_length=1, max_length=128)]
type Text = Annotated[str, Meta(min_length=1, max_length=4_000)]
type Keyword = Annotated[str, Meta(min_length=2, max_length=64)]
type Percent = Annotated[int, Meta(ge=0, le=100)]
type Tokens = Annotated[int, Meta(ge=1, le=1_000_000)]


class Between(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Both ends belong to it; one of them may be left out."""

    at_least: Annotated[int, Meta(ge=0)] | None = None
    at_most: Annotated[int, Meta(ge=0)] | None = None


class Keywords(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whole words or phrases in the last user message, in any case: one of `any`, and each of `all`."""

    any: Annotated[tuple[Keyword, ...], Meta(max_length=200)] = ()
    all: Annotated[tuple[Keyword, ...], Meta(max_length=50)] = ()


class TimeOfDay(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """Half-open, may pass midnight; `days` are the days on which the span begins."""

    zone: str = "UTC"
    from_: Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")] = "00:00"
    to: Annotated[str, Meta(pattern=r"^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$")] = "24:00"
    days: tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...] = ()


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which calls. A field that is left out does not ask.

    tags            {name: value or values}; "*" is any value, so that the tag is there at all
    keys, teams     public ids of keys, which stand for their rotations too; ids or slugs of teams
    end_users       as the request's metadata names them
    models, tiers   what the client asked for; a tier is a model's family
    words           of the last user message: runs of letters and digits
    bytes           of the whole body
    has, has_any    all of these; one of these       stream    whether the client wants a stream
    turn            first: no assistant message yet  keywords  of the last user message
    budget_used     percent of the fullest hard budget that covers the call: spent and held
    latency         the header exchequer-latency-class; interactive where it says nothing
    """

    tags: dict[str, str | tuple[str, ...]] = {}
    keys: tuple[str, ...] = ()
    teams: tuple[str, ...] = ()
    end_users: tuple[str, ...] = ()
    models: tuple[ModelName, ...] = ()
    tiers: tuple[Tier, ...] = ()
    words: Between | None = None
    bytes: Between | None = None
    keywords: Keywords | None = None
    has: tuple[Feature, ...] = ()
    has_any: tuple[Feature, ...] = ()
    stream: bool | None = None
    turn: Literal["first", "later"] | None = None
    time: TimeOfDay | None = None
    budget_used: Between | None = None
    latency: tuple[LatencyClass, ...] = ()


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model by its tier or by its id; exactly one of the two."""

    tier: Tier | None = None
    model: ModelName | None = None


class Classify(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ask a cheap model whether the message is simple, complex or an edge case, and go there. A label that is
    left out, no answer in time, or any other failure: `otherwise`; without that, the model as asked."""

    by: Target = Target(tier="haiku")
    simple: Target | None = None
    complex: Target | None = None
    edge: Target | None = None
    otherwise: Target | None = None
    timeout_ms: Annotated[int, Meta(ge=100, le=10_000)] = 2_000
    remember_seconds: Annotated[int, Meta(ge=0, le=86_400)] = 3_600


class Confidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The model that answered is asked how likely its answer is right, in percent: one more short call. Where
    it does not say so in time, the answer stands."""

    at_least: Annotated[int, Meta(ge=1, le=100)]
    timeout_ms: Annotated[int, Meta(ge=100, le=10_000)] = 3_000


class Cascade(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answer on `first`; where a check fails, or it is not as sure as `confidence` wants it, ask again on
    `then`. All are paid for. Only for replies that are not streamed, unless `buffer_streams` says that a
    stream may be kept back until it was checked; other streams are answered as asked. What the checks mean is
    in gateway/reply_checks.py."""

    first: Target
    then: Target
    checks: Annotated[tuple[CascadeCheck, ...], Meta(min_length=1)] = ("refusal", "truncation")
    confidence: Confidence | None = None
    buffer_streams: bool = False


class RouteTo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Exactly one of tier, model, heuristic, classify and cascade. `heuristic` is the built-in rule of
    heuristic.py; with `upwards` it may also choose a dearer tier than the client asked for."""

    tier: Tier | None = None
    model: ModelName | None = None
    heuristic: bool = False
    upwards: bool = False
    classify: Classify | None = None
    cascade: Cascade | None = None


class MaxTokens(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`cap` lowers what is larger; `set` replaces whatever is asked."""

    cap: Tokens | None = None
    set: Tokens | None = None


class Cache(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Exact-match answers. `volatile`: top-level fields of the body that do not make a difference, such as
    metadata. `also`: replies that are not kept otherwise."""

    ttl_seconds: Annotated[int, Meta(ge=1, le=2_592_000)]
    scope: Literal["tenant", "team", "key"] = "key"
    volatile: tuple[Literal["metadata", "diagnostics", "tags", "safeguards"], ...] = ()
    reply_bytes_max: Annotated[int, Meta(ge=1, le=8_388_608)] = 1_048_576
    also: tuple[Literal["tool_use", "thinking"], ...] = ()


class PromptCache(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Add cache_control where it pays."""

    ttl: Literal["5m", "1h"] = "5m"


class History(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a conversation has more than `above_messages`, keep about the last `keep_messages`. It is cut in
    blocks, so that the prompt cache keeps working in between."""

    above_messages: Annotated[int, Meta(ge=4, le=1_000)] = 20
    keep_messages: Annotated[int, Meta(ge=2, le=1_000)] = 10
    summarise: bool = False


class SystemText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A system prompt instead of (`replace`) or after (`append`) the client's. `captures`: name → phrase with
    {number} or {word} in it, looked for in the last user message; {name} in `text` stands for what was found.
    A rule whose captures are not all found adds nothing."""

    text: Text
    mode: Literal["replace", "append"] = "append"
    captures: Annotated[dict[Name, Keyword], Meta(max_length=5)] = {}


class JsonOutput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ask for JSON of this schema, by output_config.format."""

    schema: dict[str, object]


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A template answer: nothing is sent, nothing is paid."""

    text: Text


class Actions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is done with the calls that match.

    fallbacks      where a call goes when upstream answers 429, 529 or 5xx before any output, in order
    on_exhausted   the cheaper model for a call whose hold does not fit in a budget
    thinking       off: none, where the request says nothing of it and the model can do without
    concise        true, or the instruction's own words
    """

    route: RouteTo | None = None
    fallbacks: Annotated[tuple[Target, ...], Meta(max_length=4)] = ()
    on_exhausted: Target | None = None
    max_tokens: MaxTokens | None = None
    thinking: Literal["off"] | None = None
    stop_sequences: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=80)], ...], Meta(max_length=8)
    ] = ()
    cache: Cache | None = None
    prompt_cache: PromptCache | bool | None = None
    history: History | None = None
    concise: bool | Text | None = None
    system: SystemText | None = None
    json_output: JsonOutput | None = None
    timeout_seconds: Annotated[int, Meta(ge=1, le=3_600)] | None = None
    answer: Answer | None = None
    deny: Text | None = None


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`shadow`: only record what it would have done. `final`: no later rule of this policy is looked at."""

    name: Name
    then: Actions
    when: Match = Match()
    unless: Match | None = None
    shadow: bool = False
    final: bool = False


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole policy. A tier that `tiers` leaves out means what it means in the team's policy, in the
    tenant's, and at last in capabilities.DEFAULT_TIERS."""

    rules: Annotated[tuple[Rule, ...], Meta(min_length=1, max_length=200)]
    tiers: dict[Tier, ModelName] = {}
    sticky: bool = True
    """A conversation stays on the model that it began with."""
