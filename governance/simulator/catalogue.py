"""The models that the simulator serves, and what /v1/models says of them. No prices: the bill holds usage.

The table is the simulator's own, not the price book's: a test that compares the two must not read both
sides from one file. Facts as of 2026-11-20.
"""

from dataclasses import dataclass
from typing import Any

from governance.simulator.errors import ApiError, invalid


@dataclass(frozen=True, slots=True)
class Model:
    id: str
    display_name: str
    released: str
    context_window_tokens: int
    output_tokens_max: int
    cache_prefix_tokens_min: int
    tokenizer: str  # "new" (since Opus 4.7) counts about 30 % more tokens than "old"
    thinking_types: frozenset[str]
    prefill: bool  # may the last message be the assistant's?
    forced_tools: bool  # may tool_choice be `any` or `tool`?
    fast: bool
    geo: bool  # does `inference_geo` apply?
    alias: str | None = None
    retires: str | None = None

    @property
    def thinks_unasked(self) -> bool:
        """Where a request says nothing of thinking: all since 5."""
        return self.id.split("-")[2] == "5"

    @property
    def line(self) -> str:
        return self.id.split("-")[1]


_BUDGETED = frozenset({"enabled", "disabled"})
_EITHER = frozenset({"adaptive", "enabled", "disabled"})
_ADAPTIVE = frozenset({"adaptive", "disabled"})
_BETWEEN_TOOLS = frozenset({"adaptive", "between_tools"})
_ALWAYS = frozenset({"adaptive"})


def _million(
    model_id: str,
    name: str,
    released: str,
    cache_prefix_tokens_min: int,
    thinking_types: frozenset[str],
    *,
    tokenizer: str = "new",
    forced: bool = True,
    fast: bool = False,
) -> Model:
    """A model since 4.6: a window of a million tokens, no prefill, geo-routable."""
    return Model(
        model_id, name, released, 1_000_000, 128_000, cache_prefix_tokens_min, tokenizer, thinking_types,
        prefill=False, forced_tools=forced, fast=fast, geo=True,
    )  # fmt: skip


def _dated(
    model_id: str, name: str, released: str, cache_prefix_tokens_min: int, retires: str | None = None
) -> Model:
    """A model of 4.5: 200,000 tokens, a dated id and an alias without the date."""
    return Model(
        model_id, name, released, 200_000, 64_000, cache_prefix_tokens_min, "old", _BUDGETED,
        prefill=True, forced_tools=True, fast=False, geo=False, alias=model_id[:-9], retires=retires,
    )  # fmt: skip


MODELS: tuple[Model, ...] = (
    _million("claude-fable-5-2", "Claude Fable 5.2", "2026-11-09", 512, _ALWAYS, forced=False, fast=True),
    _million("claude-mythos-5-2", "Claude Mythos 5.2", "2026-11-09", 512, _ALWAYS, forced=False, fast=True),
    _million("claude-haiku-5-5", "Claude Haiku 5.5", "2026-10-07", 512, _ADAPTIVE),
    _million("claude-sonnet-5-5", "Claude Sonnet 5.5", "2026-09-28", 512, _BETWEEN_TOOLS, forced=False),
    _million("claude-fable-5-1", "Claude Fable 5.1", "2026-09-01", 512, _ALWAYS, forced=False),
    _million("claude-mythos-5-1", "Claude Mythos 5.1", "2026-09-01", 512, _ALWAYS, forced=False),
    _million("claude-opus-5-5", "Claude Opus 5.5", "2026-08-20", 512, _ALWAYS, forced=False, fast=True),
    _million("claude-opus-5", "Claude Opus 5", "2026-07-24", 512, _ADAPTIVE, fast=True),
    _million("claude-fable-5", "Claude Fable 5", "2026-06-09", 512, _ALWAYS),
    _million("claude-mythos-5", "Claude Mythos 5", "2026-06-09", 512, _ALWAYS),
    _million("claude-sonnet-5", "Claude Sonnet 5", "2026-06-02", 1024, _ADAPTIVE),
    _million("claude-opus-4-8", "Claude Opus 4.8", "2026-05-28", 1024, _ADAPTIVE, fast=True),
    _million("claude-opus-4-7", "Claude Opus 4.7", "2026-04-16", 2048, _ADAPTIVE),
    _million("claude-sonnet-4-6", "Claude Sonnet 4.6", "2026-02-17", 1024, _EITHER, tokenizer="old"),
    _million("claude-opus-4-6", "Claude Opus 4.6", "2026-02-05", 4096, _EITHER, tokenizer="old"),
    _dated("claude-opus-4-5-20251101", "Claude Opus 4.5", "2025-11-24", 4096),
    _dated("claude-haiku-4-5-20251001", "Claude Haiku 4.5", "2025-10-15", 4096),
    _dated("claude-sonnet-4-5-20250929", "Claude Sonnet 4.5", "2025-09-29", 1024, retires="2026-11-30"),
)  # fmt: skip

_BY_NAME: dict[str, Model] = {model.id: model for model in MODELS}
_BY_NAME.update({model.alias: model for model in MODELS if model.alias})


def find_model(name: str) -> Model:
    """The model of that id or alias; a 404 `not_found_error` for any other name."""
    model = _BY_NAME.get(name)
    if model is None:
        raise ApiError("not_found_error", f"model: {name}")
    return model


def describe(model: Model) -> dict[str, Any]:
    """One model in the shape of GET /v1/models/{id}."""

    def supported(yes: bool) -> dict[str, bool]:
        return {"supported": yes}

    effort = "adaptive" in model.thinking_types
    thinking = ("adaptive", "between_tools", "disabled", "enabled")
    return {
        "type": "model",
        "id": model.id,
        "display_name": model.display_name,
        "created_at": f"{model.released}T00:00:00Z",
        "lifecycle": "deprecated" if model.retires else "active",
        "deprecated_at": f"{model.released}T00:00:00Z" if model.retires else None,
        "retires_at": f"{model.retires}T00:00:00Z" if model.retires else None,
        "line": model.line,
        "max_input_tokens": model.context_window_tokens,
        "max_tokens": model.output_tokens_max,
        "capabilities": {
            "batch": supported(True),
            "citations": supported(True),
            "code_execution": supported(True),
            "context_management": {
                "supported": True,
                "clear_thinking_20251015": supported(True),
                "clear_tool_uses_20250919": supported(True),
                "compact_20260112": supported(effort),
            },
            "effort": {
                "supported": effort,
                **{level: supported(effort) for level in ("low", "medium", "high", "xhigh", "max")},
            },
            "image_input": supported(True),
            "pdf_input": supported(True),
            "server_tools": {
                "supported": True,
                "code_execution": supported(True),
                "web_search": supported(True),
            },
            "structured_outputs": supported(True),
            "thinking": {
                "supported": True,
                "types": {name: supported(name in model.thinking_types) for name in thinking},
            },
        },
    }


def list_models(query: dict[str, str]) -> dict[str, Any]:
    """GET /v1/models with `limit`, `after_id` and `before_id`; newest first."""
    try:
        limit = int(query.get("limit", "20"))
    except ValueError:
        raise invalid("limit: Input should be a valid integer") from None
    if not 1 <= limit <= 1000:
        raise invalid("limit: Input should be between 1 and 1000")
    rows = list(MODELS)
    ids = [model.id for model in rows]
    before, after = query.get("before_id"), query.get("after_id")
    if before in ids:
        end = ids.index(before)
        start = max(0, end - limit)
        page, has_more = rows[start:end], start > 0
    else:
        start = ids.index(after) + 1 if after in ids else 0
        page, has_more = rows[start : start + limit], start + limit < len(rows)
    return {
        "data": [describe(model) for model in page],
        "has_more": has_more,
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
    }
