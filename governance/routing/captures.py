"""Numbers and words that a message names, for the text of a system prompt: “in 5 points” → {points}.

No regular expression of a user's runs here. A phrase is a handful of words of which one is a placeholder; it
is laid along the message word by word, so the work is at most the message's words times the phrase's.
"""

import re
from collections.abc import Mapping
from typing import Final

from governance.routing.facts import excerpt

NUMBER_DIGITS_MAX: Final = 9
WORD_CHARACTERS_MAX: Final = 40
PLACEHOLDER = re.compile(r"\{(number|word)\}")
NAMED = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""A name in braces, in the text that is filled in."""

_TOKEN = re.compile(r"\w+")
_NUMBER, _ANY_WORD = "{number}", "{word}"


class Phrase:
    """A capture's phrase, compiled."""

    __slots__ = ("_at", "_tokens")

    def __init__(self, phrase: str) -> None:
        tokens: list[str] = []
        for part in re.split(r"(\{number\}|\{word\})", phrase):
            tokens.extend([part] if part in (_NUMBER, _ANY_WORD) else _TOKEN.findall(part.casefold()))
        self._tokens = tuple(tokens)
        self._at = next(i for i, token in enumerate(tokens) if token in (_NUMBER, _ANY_WORD))

    def find(self, words: list[str], folded: list[str]) -> str | None:
        """The first thing in the message that stands where the placeholder does; None where nothing does."""
        tokens, at = self._tokens, self._at
        fits = _is_number if tokens[at] == _NUMBER else _is_short
        before, after = list(tokens[:at]), list(tokens[at + 1 :])
        for start in range(at, len(words) - len(after)):
            if (
                folded[start - at : start] == before
                and folded[start + 1 : start + 1 + len(after)] == after
                and fits(words[start])
            ):
                return words[start]
        return None


class Captures:
    """The captures of one system text."""

    __slots__ = ("_phrases", "_text")

    def __init__(self, text: str, phrases: Mapping[str, str]) -> None:
        self._text = text
        self._phrases = {name: Phrase(phrase) for name, phrase in phrases.items()}

    def fill(self, message: str) -> str | None:
        """The text with what was found in it; None where something was not found."""
        if not self._phrases:
            return self._text
        words = _TOKEN.findall(excerpt(message))
        folded = [word.casefold() for word in words]
        values: dict[str, str] = {}
        for name, phrase in self._phrases.items():
            value = phrase.find(words, folded)
            if value is None:
                return None
            values[name] = value
        return NAMED.sub(lambda found: values.get(found[1], found[0]), self._text)


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) <= NUMBER_DIGITS_MAX


def _is_short(word: str) -> bool:
    return len(word) <= WORD_CHARACTERS_MAX
