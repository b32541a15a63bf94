"""What the operator refuses for everybody: names, and pairs of model and features whose bound broke.

Compiled with the snapshot, `None` when there is nothing: a call then pays one attribute test.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from governance.gateway.errors import CallRefused, forbidden
from governance.gateway.features import features_of
from governance.gateway.model_list import models_asked
from governance.gateway.request import Request
from governance.pricing import queries

if TYPE_CHECKING:
    from governance.pricing.book import PriceBook

_decode_names = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_WORDS = {"beta": "beta", "field": "request field", "model": "model"}

type Name = tuple[str, str]
"""Kind (beta, field, model) and name."""


@dataclass(frozen=True, slots=True)
class OperatorRules:
    """`refused`: name → the operator's reason. `broken`: model id → sets of features that broke its bound."""

    refused: Mapping[Name, str]
    broken: Mapping[str, tuple[frozenset[str], ...]]

    def check(self, request: Request, betas: Sequence[str], book: "PriceBook") -> None:
        """CallRefused for a call that uses a refused name, or a pair whose bound broke."""
        if self.refused:
            self.check_names(_names_of(request, betas), book)
        if self.broken:
            self._check_pair(request, betas, book)

    def check_names(self, names: Iterable[Name], book: "PriceBook") -> None:
        """CallRefused for the first refused one. A model is found under its id and under its aliases."""
        for kind, name in names:
            reason = self.refused.get((kind, name))
            if reason is None and kind == "model":
                reason = self.refused.get((kind, model_id(name, book)))
            if reason is not None:
                raise forbidden(
                    "name_refused",
                    f"The {_WORDS[kind]} “{name[:128]}” may not be used here: {_sentence(reason)} Leave "
                    "it out, or ask your administrator.",
                )

    def _check_pair(self, request: Request, betas: Sequence[str], book: "PriceBook") -> None:
        model = model_id(request.model, book)
        broken = self.broken.get(model)
        if not broken:
            return
        used = frozenset(features_of(request, betas))
        for features in broken:
            if features <= used:
                raise _pair_refused(model, features)


def model_id(name: str, book: "PriceBook") -> str:
    """The id that a model is known by, whichever of its names was used."""
    facts = book.model(name)
    return facts.model_id if facts else name[:128]


async def load_operator_rules(connection: Any) -> OperatorRules | None:
    """What is refused now. `connection`: psycopg, async."""
    refused = await (await connection.execute(queries.REFUSED_NAMES)).fetchall()
    broken = await (await connection.execute(queries.BROKEN_BOUNDS)).fetchall()
    return compile_rules(refused, broken)


def compile_rules(refused: Sequence[Any], broken: Sequence[Any]) -> OperatorRules | None:
    """From the rows of REFUSED_NAMES and BROKEN_BOUNDS (pricing/queries.py)."""
    if not refused and not broken:
        return None
    pairs: dict[str, tuple[frozenset[str], ...]] = {}
    for model, features in broken:
        pairs[model] = (*pairs.get(model, ()), frozenset(features))
    return OperatorRules({(kind, name): reason for kind, name, reason in refused}, pairs)


def why_no_model(
    model: str, allowed: Collection[str], rules: OperatorRules | None, book: "PriceBook"
) -> str | None:
    """Why a key with these models (none: all) may not be sent to that one, whatever a policy says."""
    if allowed and model not in allowed:
        return "model_not_allowed"
    if rules is not None:
        try:
            rules.check_names([("model", model)], book)
        except CallRefused as error:
            return error.refusal.reason
    return None


def _names_of(request: Request, betas: Sequence[str]) -> Iterable[Name]:
    for model in models_asked(request):
        yield "model", model
    for beta in betas:
        yield "beta", beta
    # Every name of the body, known or not, not only those that the request keeps as labels.
    for name in _decode_names(request.body):
        yield "field", name


def _sentence(reason: str) -> str:
    return reason if reason.endswith((".", "!", "?")) else f"{reason}."


def _pair_refused(model: str, features: frozenset[str]) -> CallRefused:
    pair = f"{model} with {', '.join(sorted(features))}" if features else model
    return forbidden(
        "bound_broken",
        f"Calls to {pair} are stopped: such a call cost more than the worst case that was computed for it, "
        "so no hold can be trusted to cover the next one. An administrator can look into it and clear it in "
        "the console, under Broken bounds.",
    )
