"""A key's list of models holds for every model that a request names, not only for the first."""

import json
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import msgspec

from governance.gateway.errors import CallRefused, forbidden, invalid
from governance.gateway.request import ABSENT, Request, is_given

UNSAID = "a model that the request leaves to the Claude API"


class _Named(msgspec.Struct):
    model: str


_decode_fallbacks = msgspec.json.Decoder(list[_Named]).decode
_decode_name = msgspec.json.Decoder(str).decode


def check_models(allowed: Collection[str], asked: Iterable[str]) -> None:
    """CallRefused for the first model that the key may not use."""
    for model in asked:
        if model not in allowed:
            raise forbidden(
                "model_not_allowed",
                f"This key may not use {model[:128]}. It may use {', '.join(sorted(allowed))}.",
            )


def models_asked(request: Request) -> Iterator[str]:
    """The request's model, those of its fallbacks, and those that a tool consults."""
    yield request.model
    fields = request.fields
    if is_given(fields.fallbacks):
        try:
            yield from (fallback.model for fallback in _decode_fallbacks(fields.fallbacks))
        except msgspec.DecodeError:  # "default", or a shape that we do not know
            yield UNSAID
    for tool in request.tools:
        if "model" in tool:
            try:
                yield _decode_name(tool["model"])
            except msgspec.DecodeError:
                yield UNSAID
        elif bytes(tool.get("type", ABSENT)).startswith((b'"advisor', b'"\\', b'"unreadable"')):
            yield UNSAID


def model_of_count(body: bytes) -> str:
    """The model of a count_tokens body. CallRefused where it is not plain which one that is."""
    try:
        whole = json.loads(body, object_pairs_hook=_once_each)
    except (ValueError, RecursionError):
        raise _unreadable() from None
    model = whole.get("model") if isinstance(whole, dict) else None
    if not isinstance(model, str):
        raise _unreadable()
    return model


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    given = dict(pairs)
    if len(given) < len(pairs):
        raise ValueError("a key is given twice")
    return given


def _unreadable() -> CallRefused:
    return invalid(
        "invalid_body",
        "The request body must be a JSON object that names its model once, since this key may not use every "
        "model.",
    )
