"""A small value that fits a JSON schema: the input of a tool call, or a structured reply."""

from typing import Any

DEPTH_MAX = 16


def sample(schema: Any, depth: int = 0) -> Any:
    """The same value for the same schema. Knows what tools use in practice: objects, arrays, enums,
    constants, the first branch of a choice; not references."""
    if not isinstance(schema, dict) or depth > DEPTH_MAX:
        return {}
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for choice in ("anyOf", "oneOf", "allOf"):
        if schema.get(choice):
            return sample(schema[choice][0], depth + 1)
    kind = schema.get("type", "object")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        properties = schema.get("properties") or {}
        return {name: sample(part, depth + 1) for name, part in properties.items()}
    if kind == "array":
        return [sample(schema.get("items"), depth + 1)] * schema.get("minItems", 1)
    number = schema.get("minimum", 1)
    return {"string": "simulated", "integer": number, "number": number, "boolean": True}.get(kind)
