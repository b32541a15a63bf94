"""The outcome of routing: what becomes of a call, and why. Plain frozen values; nothing here is looked up."""

from collections.abc import Mapping

import msgspec

from governance.routing.document import Cache, Cascade, Classify, History, JsonOutput, PromptCache


class Applied(msgspec.Struct, frozen=True):
    """A rule that matched. `did`: its actions that count; a shadow rule's are what it would have done."""

    policy_id: int
    version_id: int
    rule: str
    did: tuple[str, ...]
    shadow: bool = False


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """Models are ids: tiers are resolved, and incompatible ones are not filtered yet (capabilities.py is
    asked with the request at hand). None and () mean: as asked.

    `rule` and `version_id` are of the rule that chose the model, else of the first that did anything. `why`
    is the sentence for the response header and the console: which signals chose the model.
    """

    applied: tuple[Applied, ...] = ()
    rule: str | None = None
    version_id: int | None = None
    why: str = ""
    deny: str | None = None
    answer: str | None = None
    model: str | None = None
    classify: "Classifier | None" = None
    cascade: "Ladder | None" = None
    fallbacks: tuple[str, ...] = ()
    on_exhausted: str | None = None
    max_tokens_cap: int | None = None
    max_tokens_set: int | None = None
    thinking_off: bool = False
    stop_sequences: tuple[str, ...] = ()
    cache: Cache | None = None
    cache_rule: str | None = None
    cache_version_id: int | None = None
    """The rule that has `cache`, which need not be the one that chose the model."""
    prompt_cache: PromptCache | None = None
    history: History | None = None
    summarise_by: str | None = None
    """The model that sums up what the history window takes away; None where the rule wants no summary."""
    concise: str | None = None
    system: "SystemPrompt | None" = None
    json_output: JsonOutput | None = None
    timeout_seconds: int | None = None
    sticky: bool = True
    degraded: bool = False
    """A rule speaks for the model because a budget is used up: a conversation leaves a dearer one."""
    ceiling: str | None = None
    """The dearest model that a conversation may then stay on; None: on none."""
    policies: Mapping[str, int] = {}
    """Whose models they are: from which policy `model`, `fallbacks`, `on_exhausted`, `history` came (ids)."""

    def first_model(self, *, stream: bool) -> str | None:
        """Where the call goes first; None: where it asks to. A stream that may not be kept back begins no
        cascade: there is nothing to check before it has left."""
        if self.cascade is not None and (self.cascade.terms.buffer_streams or not stream):
            return self.cascade.first
        return self.model


class Classifier(msgspec.Struct, frozen=True):
    """document.Classify with its models by name; None is the model as asked."""

    by: str
    models: dict[str, str | None]
    otherwise: str | None
    timeout_ms: int
    remember_seconds: int
    terms: Classify


class Ladder(msgspec.Struct, frozen=True):
    """document.Cascade with its models by name."""

    first: str
    then: str
    terms: Cascade


class SystemPrompt(msgspec.Struct, frozen=True):
    """The text with its captures filled in."""

    text: str
    replaces: bool


AS_ASKED = Route()
