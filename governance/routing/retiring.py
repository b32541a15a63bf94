"""The models that a policy sends calls to and that are retired, or will be soon. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from typing import Any

from governance.pricing.rates import ModelFacts
from governance.routing.capabilities import DEFAULT_TIERS, is_retired, retires_soon


def retiring(document: Mapping[str, Any], models: Iterable[ModelFacts], today: date) -> list[ModelFacts]:
    """Of document.Policy as JSON, each once, in the order in which they retire. A tier means what the policy
    says, else what it usually means."""
    named = set(_named({**document, "rules": [rule["then"] for rule in document["rules"]]}))
    tiers = {**DEFAULT_TIERS, **document.get("tiers", {})}
    names = {tiers.get(name, name) for name in named} | set(document.get("tiers", {}).values())
    found = [
        model
        for model in models
        if not names.isdisjoint((model.model_id, *model.aliases))
        and (is_retired(model, today) or retires_soon(model, today))
    ]
    return sorted(found, key=lambda model: (model.retires_on or date.min, model.model_id))


def _named(value: Any) -> Iterator[str]:
    """Every tier and model of a target in there."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name in ("tier", "model") and isinstance(inner, str):
                yield inner
            elif name != "json_output":  # its schema may call a property as it likes
                yield from _named(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _named(inner)
