"""The built-in rule of `route: {heuristic: true}`: a tier from the last user message alone.

    opus    long (LONG_WORDS or more) and a complexity keyword: both signals, because each alone errs
            upwards, and an error upwards is the dear one
    haiku   a simple-task keyword, no complexity keyword, and not long
    sonnet  everything else

The tier never rises above what the client asked for, unless the rule says `upwards: true`: who asks for Haiku
has decided. A model whose tier is not known stays as it is.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Final

import msgspec

from governance.routing.capabilities import TIERS
from governance.routing.document import Tier
from governance.routing.words import Keyword, Words, keywords

LONG_WORDS: Final = 150

COMPLEXITY: Final = keywords(
    (
        "algorithm", "analyse", "analysis", "analyze", "architect", "architecture", "benchmark", "compare",
        "complexity", "concurrency", "contract", "critique", "debug", "derive", "design", "diagnose",
        "edge cases", "evaluate", "hypothesis", "implement", "implications", "investigate", "legal",
        "migrate", "optimise", "optimize", "plan", "proof", "prove", "reason through", "refactor",
        "research", "root cause", "security", "step by step", "strategy", "synthesise",
        "synthesize", "theorem", "trade off", "trade offs", "tradeoff", "tradeoffs", "vulnerability",
    )
)  # fmt: skip
SIMPLE: Final = keywords(
    (
        "capital of", "categorise", "categorize", "classify", "convert", "correct the spelling", "count",
        "define", "detect the language", "extract", "fix the typos", "format", "hello", "how do you say",
        "is this spam", "label", "list", "lowercase", "name the", "parse", "rename", "rephrase", "reverse",
        "sentiment", "shorten", "sort", "spell", "spell check", "subject line", "summarise", "summarize",
        "synonym", "synonyms", "tag", "thank you", "thanks", "title for", "translate", "uppercase",
        "what is the date", "what time", "what year", "when did", "when was", "who is", "who was",
        "who wrote", "yes or no",
    )
)  # fmt: skip
WANTED: Final = frozenset().union(*(keyword.words for keyword in (*COMPLEXITY, *SIMPLE)))
"""What Words has to look for, for `choose`."""


def _by_word(wanted: Iterable[Keyword]) -> Mapping[bytes, tuple[Keyword, ...]]:
    """Each under one of its words: where that is missing, so is the keyword."""
    found: dict[bytes, tuple[Keyword, ...]] = {}
    for keyword in wanted:
        rarest = max(keyword.words, key=len)
        found[rarest] = (*found.get(rarest, ()), keyword)
    return found


_COMPLEXITY, _SIMPLE = _by_word(COMPLEXITY), _by_word(SIMPLE)


class Choice(msgspec.Struct, frozen=True):
    """`why` names the signals: how long, and which keyword. There are a few hundred choices, so that what
    follows from one can be remembered."""

    tier: Tier
    why: str


def choose(words: Words) -> Choice:
    """The tier that the message alone speaks for."""
    is_long = words.count >= LONG_WORDS
    complexity = _first_of(_COMPLEXITY, words)
    if complexity is not None:
        return _choice("opus" if is_long else "sonnet", is_long, complexity)
    simple = None if is_long else _first_of(_SIMPLE, words)
    return _choice("sonnet" if simple is None else "haiku", is_long, simple)


@cache
def _choice(tier: Tier, is_long: bool, keyword: str | None) -> Choice:
    length = f"at least {LONG_WORDS} words" if is_long else f"fewer than {LONG_WORDS} words"
    return Choice(tier, f"{length} and {'no keyword' if keyword is None else f'“{keyword}”'}")


def at_most(tier: Tier, asked: Tier) -> Tier:
    """The cheaper of the two."""
    return tier if TIERS.index(tier) <= TIERS.index(asked) else asked


def _first_of(wanted: Mapping[bytes, tuple[Keyword, ...]], words: Words) -> str | None:
    """The first in the alphabet, so that the same message always has the same reason."""
    first: str | None = None
    for word in words.found:
        for keyword in wanted.get(word, ()):
            if (first is None or keyword.text < first) and words.has(keyword):
                first = keyword.text
    return first
