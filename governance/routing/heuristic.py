"""The built-in rule of `route: {heuristic: true}`: a tier from the last user message alone.

    opus    long (LONG_WORDS or more) and a complexity keyword: both signals, because each alone errs
            upwards, and an error upwards is the dear one
    haiku   a simple-task keyword, no complexity keyword, and not long
    sonnet  everything else

The tier never rises above what the client asked for, unless the rule says `upwards: true`: who asks for Haiku
has decided. A model whose tier is not known stays as it is.
"""

from collections.abc import Mapping
from functools import cache
from typing import Final

import msgspec

from governance.routing.capabilities import TIERS
from governance.routing.document import Tier
from governance.routing.words import Words, patterns_of

LONG_WORDS: Final = 150

COMPLEXITY: Final = patterns_of(
    (
        "algorithm", "analyse", "analysis", "analyze", "architect", "architecture", "benchmark", "compare",
        "complexity", "concurrency", "contract", "critique", "debug", "derive", "design", "diagnose",
        "edge cases", "evaluate", "hypothesis", "implement", "implications", "investigate", "legal",
        "migrate", "optimise", "optimize", "plan", "proof", "prove", "reason through", "refactor",
        "research", "root cause", "security", "step by step", "strategy", "synthesise",
        "synthesize", "theorem", "trade off", "trade offs", "tradeoff", "tradeoffs", "vulnerability",
    )
)  # fmt: skip
SIMPLE: Final = patterns_of(
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
WANTED: Final = frozenset([*COMPLEXITY, *SIMPLE])
"""What has to be looked for, for `choose`."""


class Choice(msgspec.Struct, frozen=True, cache_hash=True):
    """`why` names the signals: how long, and which keyword. There are a few hundred choices, so that what
    follows from one can be remembered."""

    tier: Tier
    why: str


def choose(words: Words) -> Choice:
    """The tier that the message alone speaks for."""
    is_long = words.count >= LONG_WORDS
    complexity = _first_of(COMPLEXITY, words)
    if complexity is not None:
        return _choice("opus" if is_long else "sonnet", is_long, complexity)
    simple = None if is_long else _first_of(SIMPLE, words)
    return _choice("sonnet" if simple is None else "haiku", is_long, simple)


@cache
def _choice(tier: Tier, is_long: bool, keyword: str | None) -> Choice:
    length = f"at least {LONG_WORDS} words" if is_long else f"fewer than {LONG_WORDS} words"
    return Choice(tier, f"{length} and {'no keyword' if keyword is None else f'“{keyword}”'}")


def at_most(tier: Tier, asked: Tier) -> Tier:
    """The cheaper of the two."""
    return tier if TIERS.index(tier) <= TIERS.index(asked) else asked


def _first_of(wanted: Mapping[bytes, str], words: Words) -> str | None:
    """The first in the alphabet, so that the same message always has the same reason."""
    if not words.found:
        return None
    return min([wanted[pattern] for pattern in words.found if pattern in wanted], default=None)
