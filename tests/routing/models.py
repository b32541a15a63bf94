"""The shipped price file's models, for tests of what is done with them."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path

import governance.pricing
from governance.pricing.price_file import read_price_file
from governance.pricing.rates import ModelFacts

TODAY = date(2026, 11, 20)
_FILE = Path(governance.pricing.__file__).parent / "data" / "claude_prices.json"
PRICES = read_price_file(_FILE.name, _FILE.read_bytes())
MODELS = PRICES.models
BY_NAME: Mapping[str, ModelFacts] = {
    name: model for model in MODELS for name in (model.model_id, *model.aliases)
}
