"""Small price files for tests, each about a model of its own so that tests do not disturb each other."""

import copy
import json
import uuid
from typing import Any

from governance.pricing.price_file import PriceFile, read_price_file

MODEL: dict[str, Any] = {
    "aliases": [],
    "family": "test",
    "status": "active",
    "released": "2026-01-01",
    "retires": None,
    "context_window": 200_000,
    "max_output": 8_000,
    "max_output_batch_beta": None,
    "min_cacheable_prefix_tokens": 1024,
    "usd_per_mtok": {"input": 1, "output": 5, "cache_write_5m": 1.25, "cache_write_1h": 2, "cache_read": 0.1},
    "fast_mode_usd_per_mtok": None,
    "long_prompt": None,
    "inference_geo_us_multiplier": 1.1,
    "tokenizer": "new",
    "price_history": [],
}


def new_model_id() -> str:
    return f"claude-test-{uuid.uuid4().hex}"


def content(*models: dict[str, Any], **top_level: Any) -> bytes:
    """A price file of these models; each is MODEL with what it overrides, prices included."""
    entries = []
    for overrides in models:
        entry = copy.deepcopy(MODEL) | overrides
        entry["usd_per_mtok"] = MODEL["usd_per_mtok"] | overrides.get("usd_per_mtok", {})
        entries.append(entry)
    stated = {
        "compiled": "2026-11-20",
        "currency": "USD",
        "unit": "per 1,000,000 tokens",
        "global_rules": {"batch_discount": 0.5},
        "server_tools": {"web_search_usd_per_1000": 10},
        "models": entries,
    }
    return json.dumps(stated | top_level).encode()


def price_file(*models: dict[str, Any], **top_level: Any) -> PriceFile:
    return read_price_file("test.json", content(*models, **top_level))
