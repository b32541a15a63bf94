"""Does a JSON value fit a schema? As much of JSON Schema as structured output takes: type, enum, const,
properties, required, additionalProperties, items and the choices anyOf, oneOf, allOf. Anything else,
references included, is not looked at: it fits.
"""

from collections.abc import Mapping
from typing import Any

DEPTH_MAX = 32

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}


def fits(value: Any, schema: Any, depth: int = 0) -> bool:
    """Whether the value is one that the schema describes."""
    if not isinstance(schema, Mapping) or depth > DEPTH_MAX:
        return True
    if "enum" in schema and not any(_same(value, each) for each in schema["enum"]):
        return False
    if "const" in schema and not _same(value, schema["const"]):
        return False
    if not _is_of_type(value, schema.get("type")):
        return False
    for name, enough in (("allOf", all), ("anyOf", any), ("oneOf", any)):
        choices = schema.get(name)
        if isinstance(choices, list) and not enough(fits(value, each, depth + 1) for each in choices):
            return False
    if isinstance(value, dict):
        return _object_fits(value, schema, depth)
    if isinstance(value, list) and "items" in schema:
        return all(fits(each, schema["items"], depth + 1) for each in value)
    return True


def _object_fits(value: dict[str, Any], schema: Mapping[str, Any], depth: int) -> bool:
    properties = schema.get("properties")
    properties = properties if isinstance(properties, Mapping) else {}
    required = schema.get("required")
    if isinstance(required, list) and not all(name in value for name in required):
        return False
    if schema.get("additionalProperties") is False and not value.keys() <= properties.keys():
        return False
    return all(fits(value[name], part, depth + 1) for name, part in properties.items() if name in value)


def _is_of_type(value: Any, kind: Any) -> bool:
    if isinstance(kind, list):
        return any(_is_of_type(value, each) for each in kind)
    if not isinstance(kind, str) or kind not in _TYPES:
        return True
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[kind])


def _same(value: Any, other: Any) -> bool:
    """Equal, and true is not 1."""
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)
