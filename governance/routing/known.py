"""What there is for a policy to name: models with their prices, keys and teams."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Self

from governance.pricing.book import PriceBook
from governance.pricing.rates import ModelFacts
from governance.routing.capabilities import DEFAULT_TIERS
from governance.routing.document import Target, Tier

_SAMPLE_TOKENS = 10_000


@dataclass(frozen=True, slots=True)
class Known:
    """None for what is not to be checked.

    `models` by every name. `prices`: nano-dollars for the same call on each model, by its id, to tell the
    cheaper of two. `keys`: public ids. `teams`: slugs and ids. `tiers`: what less specific policies say.
    """

    today: date
    models: Mapping[str, ModelFacts] | None = None
    prices: Mapping[str, int] = field(default_factory=dict)
    keys: Collection[str] | None = None
    teams: Collection[str] | None = None
    tiers: Mapping[Tier, str] = field(default_factory=dict)

    @classmethod
    def of_book(
        cls,
        book: PriceBook,
        now: datetime,
        *,
        keys: Collection[str] | None = None,
        teams: Collection[str] | None = None,
        tiers: Mapping[Tier, str] | None = None,
    ) -> Self:
        """With a book's models and their prices of the moment."""
        return cls(
            today=now.date(),
            models={name: model for model in book.models for name in (model.model_id, *model.aliases)},
            prices={model.model_id: _price(book, model.model_id, now) for model in book.models},
            keys=keys,
            teams=teams,
            tiers=tiers or {},
        )

    def model(self, name: str) -> ModelFacts | None:
        return self.models.get(name) if self.models is not None else None

    def model_id(self, name: str) -> str:
        """The model's own id; the name itself where it is unknown."""
        model = self.model(name)
        return name if model is None else model.model_id

    def target(self, target: Target, tiers: Mapping[Tier, str]) -> str | None:
        """The id of the model that is meant; None for a target that says nothing. `tiers`: the policy's."""
        if target.model is not None:
            return self.model_id(target.model)
        if target.tier is None:
            return None
        meaning = tiers.get(target.tier) or self.tiers.get(target.tier) or DEFAULT_TIERS[target.tier]
        return self.model_id(meaning)

    def price(self, name: str | None) -> int | None:
        return None if name is None else self.prices.get(name)


def _price(book: PriceBook, model_id: str, now: datetime) -> int:
    return book.worst_case(
        model_id,
        input_tokens_max=_SAMPLE_TOKENS,
        output_tokens_max=_SAMPLE_TOKENS,
        cache_ttl=None,
        inference_geo="global",
        speed="standard",
        at=now,
    )
