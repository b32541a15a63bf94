"""A small value that fits a JSON schema: the input of a tool call, or a structured reply."""

from typing import Any

from governance.simulator.errors import invalid

DEPTH_MAX = 16
ITEMS_MAX = 100


def sample(schema: Any) -> Any:
    """The same value for the same schema; a 400 for a schema that is none. Knows what tools use in practice:
    objects, arrays, enums, constants, the first branch of a choice; not references."""
    try:
        return _sample(schema, 0)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError):
        raise invalid("The JSON schema is invalid.") from None


def _sample(schema: Any, depth: int) -> Any:
    if not isinstance(schema, dict) or depth > DEPTH_MAX:
        return {}
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for choice in ("anyOf", "oneOf", "allOf"):
        if schema.get(choice):
            return _sample(schema[choice][0], depth + 1)
    kind = schema.get("type", "object")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        properties = schema.get("properties") or {}
        return {name: _sample(part, depth + 1) for name, part in properties.items()}
    if kind == "array":
        return [_sample(schema.get("items"), depth + 1)] * min(schema.get("minItems", 1), ITEMS_MAX)
    number = schema.get("minimum", 1)
    return {"string": "simulated", "integer": number, "number": number, "boolean": True}.get(kind)
