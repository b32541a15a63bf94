"""Signed thinking: what newer models wrote while thinking is bound to everything that came before it.

A signature says which model thought, and a digest of the tools, the system prompt and all earlier messages,
cache breakpoints left out. Sent back with another beginning it is refused in the API's words; sent to another
model it is dropped, as the API does. Signatures that are not of the simulator's making are not verified.
"""

import base64
import binascii
import hashlib
from typing import Any

import msgspec

from governance.simulator.errors import invalid

BINDING_MODELS = frozenset(
    {
        "claude-fable-5-1",
        "claude-fable-5-2",
        "claude-mythos-5-1",
        "claude-mythos-5-2",
        "claude-opus-5-5",
        "claude-sonnet-5-5",
        "claude-haiku-5-5",
    }
)
_MAKE = b"exqsim1:"
_DIGEST_BYTES = 24
_ATTRIBUTION = "x-anthropic-billing-header:"


def signature(body: dict[str, Any], model_id: str, seed: bytes) -> str:
    """The signature of thinking that answers `body`."""
    bound = _digest(body, body["messages"]) if model_id in BINDING_MODELS else bytes(_DIGEST_BYTES)
    salt = hashlib.blake2b(seed, digest_size=16).digest()
    return base64.b64encode(_MAKE + _of_model(model_id) + bound + salt).decode()


def check_signatures(body: dict[str, Any], model_id: str) -> None:
    """ApiError for thinking of this model that was signed in another conversation."""
    if model_id not in BINDING_MODELS:
        return
    for index, message in enumerate(body["messages"]):
        for number, block in enumerate(_list(message["content"])):
            if block.get("type") != "thinking":
                continue
            signed = _parts(block.get("signature"))
            if signed is None or signed[0] != _of_model(model_id):
                continue
            if signed[1] != _digest(body, body["messages"][:index]):
                raise invalid(
                    f"messages.{index}.content.{number}: Invalid signature in thinking block: it is bound to "
                    "a different conversation"
                )


def _parts(text: Any) -> tuple[bytes, bytes] | None:
    """(model, digest) of a signature of ours."""
    try:
        raw = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except binascii.Error:
        return None
    if not raw.startswith(_MAKE):
        return None
    rest = raw[len(_MAKE) :]
    return rest[:8], rest[8 : 8 + _DIGEST_BYTES]


def _of_model(model_id: str) -> bytes:
    return hashlib.blake2b(model_id.encode(), digest_size=8).digest()


def _digest(body: dict[str, Any], messages: list[Any]) -> bytes:
    system = [block for block in _list(body.get("system")) if not _is_attribution(block)]
    said = [(message["role"], _plain(_list(message["content"]))) for message in messages]
    whole = (_plain(body.get("tools") or []), _plain(system), said)
    encoded = msgspec.json.encode(whole, order="deterministic")
    return hashlib.blake2b(encoded, digest_size=_DIGEST_BYTES).digest()


def _is_attribution(block: Any) -> bool:
    """Claude Code's first block, which the API takes away."""
    return isinstance(block, dict) and str(block.get("text", "")).startswith(_ATTRIBUTION)


def _list(content: Any) -> list[Any]:
    """A string is shorthand for one text block."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content or []


def _plain(value: Any) -> Any:
    """Without cache breakpoints, which bind nothing."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items() if name != "cache_control"}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value
