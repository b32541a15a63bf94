"""What the Claude API meters, each with a price of its own."""

from typing import Literal

Meter = Literal["input", "cache_write_5m", "cache_write_1h", "cache_read", "output", "web_search"]

METERS: tuple[Meter, ...] = (
    "input",  # tokens that were neither written to nor read from the prompt cache
    "cache_write_5m",  # tokens
    "cache_write_1h",  # tokens
    "cache_read",  # tokens
    "output",  # tokens, thinking among them
    "web_search",  # searches
)
"""In the order of the fields of `core.usage.Usage`."""
