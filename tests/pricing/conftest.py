from datetime import UTC, datetime
from pathlib import Path

import pytest

from governance.pricing import price_file
from governance.pricing.book import PriceBook, compile_book

BUNDLED = Path(price_file.__file__).parent / "data" / "claude_prices.json"
TODAY = datetime(2026, 11, 20, 12, tzinfo=UTC)
"""The day the bundled prices were compiled."""


@pytest.fixture(scope="session")
def book() -> PriceBook:
    """The bundled prices, without a database."""
    prices = price_file.read_price_file(BUNDLED.name, BUNDLED.read_bytes())
    return compile_book(1, prices.rates, prices.models)
