"""Why a body cannot be served, in the words of the API."""

import re


class RequestRefused(Exception):
    """The body cannot be served: a 400. `sentence` is the error's message, the field at fault first."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


_MISSING = re.compile(r"Object missing required field `(\w+)`(?: - at `\$\.?(.*)`)?$")
_WRONG = re.compile(r"(.*) - at `\$\.?(.*)`$")
_EXPECTED = {"str": "string", "int": "integer", "bool": "boolean", "array": "list", "object": "object"}


def shape_refusal(error: str) -> RequestRefused:
    """msgspec's error in the words of the API: `max_tokens: Field required`."""
    if missing := _MISSING.match(error):
        field, parent = missing.groups()
        path = _path(f"{parent}.{field}" if parent else field)
        return RequestRefused(f"{path}: Field required")
    wrong = _WRONG.match(error)
    if wrong is None:
        return RequestRefused("The request body must be a JSON object.")
    problem, path = wrong[1], _path(wrong[2])
    expected = re.match(r"Expected `([^`]+)`, got `(\w+)`", problem)
    if expected is None:  # a range: "Expected `int` >= 0"
        return RequestRefused(f"{path}: {problem}")
    names = [_EXPECTED[name] for name in expected[1].split(" | ") if name in _EXPECTED]
    return RequestRefused(f"{path}: Input should be a valid {' or '.join(names)}")


def _path(msgspec_path: str) -> str:
    """`messages[0].content` as the API writes it: `messages.0.content`."""
    return msgspec_path.replace("[", ".").replace("]", "").strip(".")
