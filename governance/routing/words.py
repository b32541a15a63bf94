"""The words of a message, for keywords and counts: runs of letters with their marks, and digits, in one case.

A message is made a line of words with one space between them, and one automaton (Aho-Corasick) finds the
keywords of all rules in one pass over it. It costs hardly more for two thousand than for two, and no word
becomes an object of its own, as it would in a set that words are looked up in.
"""

import re
from collections.abc import Iterable, Set
from typing import Final
from unicodedata import category
from weakref import WeakValueDictionary

import msgspec
from ahocorasick_rs import BytesAhoCorasick, Implementation

from governance.routing.facts import looked_at

DFA_BYTES_MAX: Final = 8 * 1024
"""Of all patterns together, some 500 keywords: up to here the quickest automaton, which takes up to 1 KB a
byte. Above, one that takes half as long again and a sixth of the memory or less."""

_ASCII = bytes(range(128))
_IN_ONE_CASE = [char.lower() if char.isalnum() or char == "_" else " " for char in map(chr, _ASCII)]
_ONE_CASE = "".join(_IN_ONE_CASE).encode() + bytes(range(128, 256))
_TWO_SPACES = BytesAhoCorasick([b"  "])
"""Looks for them in a sixth of the time that `in` takes, which stops at every single one."""
_REPLACED_MAX: Final = 16
"""So many different characters that are in no word are replaced one by one."""
_MARKS: Final = {"Mn", "Mc"}
"""Vowels of Hindi and its like, and accents that no letter has in it: half of what tells such words apart."""
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Writings without spaces between words, in which a keyword is found anywhere."""


class Words(msgspec.Struct, frozen=True):
    """What one message says: how many words, and the patterns of the keywords that it has."""

    count: int
    found: Set[bytes]


class Search:
    """All patterns in one pass. Made by `search_for`."""

    __slots__ = ("__weakref__", "_anywhere", "_whole_words")

    def __init__(self, patterns: Iterable[bytes]) -> None:
        wanted = [pattern for pattern in patterns if pattern]
        self._whole_words = _Automaton([pattern for pattern in wanted if pattern.startswith(b" ")])
        self._anywhere = _Automaton([pattern for pattern in wanted if not pattern.startswith(b" ")])

    def words(self, text: str, characters: int = 0) -> Words:
        """Of a message of that many characters, of which `text` is what is looked at."""
        characters = max(characters, len(text))
        text = looked_at(text)
        line = one_line(text)
        count = line.count(b" ") - 1
        if characters > len(text):
            count = count * characters // max(1, len(text))
        found = self._whole_words.found(line)
        if self._anywhere.patterns and not text.isascii():
            found = found | self._anywhere.found(_folded(text).encode(errors="surrogatepass"))
        return Words(count, found)


_NOTHING: Final[frozenset[bytes]] = frozenset()


class _Automaton:
    __slots__ = ("_automaton", "patterns")

    def __init__(self, patterns: list[bytes]) -> None:
        is_small = sum(map(len, patterns)) <= DFA_BYTES_MAX
        self.patterns = patterns
        self._automaton = BytesAhoCorasick(
            patterns, implementation=Implementation.DFA if is_small else Implementation.ContiguousNFA
        )

    def found(self, haystack: bytes) -> Set[bytes]:
        """Overlapping, since neighbours share the space between them."""
        if not self.patterns:
            return _NOTHING
        matches = self._automaton.find_matches_as_indexes(haystack, overlapping=True)
        patterns = self.patterns
        return {patterns[match[0]] for match in matches} if matches else _NOTHING


_searches: WeakValueDictionary[frozenset[bytes], Search] = WeakValueDictionary()


def search_for(patterns: frozenset[bytes]) -> Search:
    """One for all routers that look for the same."""
    search = _searches.get(patterns)
    if search is None:
        search = _searches[patterns] = Search(patterns)
    return search


def pattern_of(keyword: str) -> bytes:
    """As it is looked for: “Data-Base” → b" data base ", whole words; “天気” without spaces, anywhere. Empty
    without letters and digits: never found."""
    line = one_line(keyword)
    if line == b" ":
        return b""
    if _UNSPACED.search(keyword):
        return " ".join(_folded(keyword).split()).encode(errors="replace")
    return line


def patterns_of(keywords: Iterable[str]) -> dict[bytes, str]:
    """Each pattern once, in order, with the keyword as it is written."""
    return {pattern_of(keyword): keyword for keyword in keywords}


def one_line(text: str) -> bytes:
    """Its words in one case, as UTF-8, with a space before, between and after: b" " without any."""
    if "\n" in text:  # of empty lines there are few, of spaces many: one turn less below
        text = text.replace("\n\n", "\n")
    line = b" %b " % (text.encode() if text.isascii() else _cleared(_folded(text))).translate(_ONE_CASE)
    while True:  # in prose, once or twice: each turn halves the runs of spaces
        shorter = line.replace(b"  ", b" ")
        saved, line = len(line) - len(shorter), shorter
        if 16 * saved > len(line):  # in code and tables, where words are fewer
            return b" ".join([b"", *line.split(), b""])
        if not saved or not _TWO_SPACES.find_matches_as_indexes(line):
            return line


def _folded(text: str) -> str:
    """In one case; of an İ too, which casefold makes an i with a dot above it."""
    return text.casefold().replace("i\u0307", "i")


def _cleared(text: str) -> bytes:
    """With spaces for what is beyond ASCII and in no word: in most texts a few kinds of quotes and dashes,
    which are replaced one by one. That is quicker than to read every word."""
    data = text.encode(errors="replace")
    beyond = data.translate(None, _ASCII).decode()
    if beyond.isalnum():
        return data
    kinds = {kind for kind in set(beyond) if not _is_in_word(kind)}
    if len(kinds) > _REPLACED_MAX:
        return "".join([" " if char in kinds else char for char in data.decode()]).encode()
    for kind in kinds:
        data = data.replace(kind.encode(), b" ")
    return data


def _is_in_word(char: str) -> bool:
    if char.isalnum():
        return True
    return category(char) in _MARKS and not "\ufe00" <= char <= "\ufe0f"  # those are of pictures: “❤️poem”
