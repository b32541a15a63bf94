"""Keywords are whole words in any case; captures are what stands in their place, and nothing else."""

import gc
import random
import resource
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governance.routing.captures import Captures
from governance.routing.facts import EXCERPT_CHARACTERS_MAX, TEXT_CHARACTERS_MAX, excerpt, looked_at
from governance.routing.words import DFA_BYTES_MAX, Search, one_line, pattern_of, patterns_of, search_for
from tests.routing import naive


def found_in(text: str, *keywords: str) -> set[str]:
    """Those of the keywords, all looked for at once."""
    wanted = patterns_of(keywords)
    return {wanted[pattern] for pattern in Search(wanted).words(text).found}


def has(text: str, keyword: str) -> bool:
    return bool(found_in(text, keyword))


def count(text: str) -> int:
    return Search(()).words(text).count


@pytest.mark.parametrize(
    ("text", "keyword", "found"),
    [
        ("A poem, please", "poem", True),
        ("A POEM!", "Poem", True),
        ("poems", "poem", False),
        ("a_poem", "poem", False),
        ("Write a “poem” – now", "poem", True),
        ("the data-base", "data base", True),
        ("the data, and base", "data base", False),
        ("STRASSE", "straße", True),
        ("Ä É", "é", True),
        ("東京の天気", "天気", True),
        ("東京の天気", "大阪", False),
        ("", "poem", False),
        ("step by\n\nstep", "step by step", True),
        ("node.js", "node.js", True),
        ("किताब", "कातिब", False),
        ("यह किताब है", "किताब", True),
        ("İstanbul", "istanbul", True),
        ("cafe\u0301", "cafe", False),
        ("❤\ufe0fpoem", "poem", True),
    ],
)
def test_keywords_are_whole_words_in_any_case(text: str, keyword: str, found: bool) -> None:
    assert has(text, keyword) is found


@given(text=st.text(max_size=60), keyword=st.text(alphabet="abAB éß-'“ \u00a0", min_size=2, max_size=8))
def test_a_keyword_is_found_where_a_naive_reading_finds_it(text: str, keyword: str) -> None:
    twice = f"{text} {keyword} {text}"
    is_looked_for = bool(naive.words_of(keyword))
    assert has(twice, keyword) is is_looked_for
    assert has(text, keyword) is (is_looked_for and naive.said(keyword, naive.words_of(text)))
    assert count(twice) == len(naive.words_of(twice))


WRITTEN = ["red", "Herring", "HERRING", "re", "straße", "STRASSE", "Ärger", "naïve", "ﬁn", "x1", "a_b", "Ωx"]
BETWEEN = [
    " ",
    "  ",
    "\n\n",
    ", ",
    "-",
    ".",
    "’",
    " – ",
    "\u00a0",
    "“",
    "…",
    "\ufe0f",
    "\ud800",
    "🙂",
    " " * 27,
]
said_words = st.lists(st.tuples(st.sampled_from(WRITTEN), st.sampled_from(BETWEEN)), max_size=25)
texts = st.builds(
    lambda start, words: start + "".join(word + gap for word, gap in words),
    st.sampled_from(["", " ", "“", "---"]),
    said_words,
)
some_keywords = st.lists(
    st.one_of(
        st.lists(st.sampled_from(WRITTEN), min_size=1, max_size=3).map(" ".join),
        st.sampled_from(["red herring", "herring red", "herring herring", "red-herring", "--", "ss", "…"]),
    ),
    max_size=8,
    unique_by=pattern_of,
)


@settings(max_examples=300)
@given(text=texts, keywords=some_keywords)
def test_one_pass_finds_what_a_reading_word_by_word_finds(text: str, keywords: list[str]) -> None:
    """All keywords at once, also those that overlap, repeat or share the space between them."""
    words = naive.words_of(text)
    wanted = {keyword for keyword in keywords if naive.words_of(keyword) and naive.said(keyword, words)}
    assert found_in(text, *keywords) == wanted
    assert one_line(text).decode().split(" ") == (["", *words, ""] if words else ["", ""])


@pytest.mark.parametrize("gap", BETWEEN)
@pytest.mark.parametrize("times", [1, 2, 3, 5, 16, 600])
def test_whatever_stands_between_words_and_however_often_is_one_space(gap: str, times: int) -> None:
    line = one_line(f"Red{gap * times}Herring{gap * times}, RED {'and blue ' * times}")
    assert line == b" red herring red " + b"and blue " * times


def test_neighbours_share_a_space_and_phrases_overlap() -> None:
    assert found_in("red herring red", "red herring", "herring red", "red", "red red") == {
        "red herring", "herring red", "red",
    }  # fmt: skip
    assert found_in("go go", "go go") == found_in("Go, go", "go go") == {"go go"}
    assert not found_in("go", "go go")


def test_in_writings_without_spaces_a_keyword_is_found_anywhere_and_as_it_is_written() -> None:
    assert found_in("明日の東京の天気は?", "天気", "東京の天", "大阪", "東京 天気") == {"天気", "東京の天"}
    assert found_in("ขอม้าหนึ่งตัว", "ม้า", "ม่า", "มา") == {"ม้า"}
    assert found_in("LINEで送金", "line", "Lineで") == {"Lineで"}
    assert not found_in("plain", "天気")
    assert not found_in("\ud800天気", "?天気")


def test_many_keywords_are_found_as_few_are() -> None:
    """Above DFA_BYTES_MAX it is another automaton."""
    many = [f"word {number}" for number in range(DFA_BYTES_MAX // len("word 7"))]
    assert found_in("Word-7, word 5000; word 500 7", *many) == {"word 7", "word 500"}


def test_keywords_take_little_memory_however_long_they_are_and_in_whatever_writing() -> None:
    """A worker has 90 MB, and every key may have keywords of its own."""

    def memory_mb() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

    letters = [chr(number) for number in range(0x10300, 0x10400) if chr(number).isalpha()]
    keywords = ["".join(random.Random(seed).choices(letters, k=64)) for seed in range(500)]
    before = memory_mb()
    search = Search(patterns_of(keywords))
    assert memory_mb() - before < 16
    assert search.words(f"so {keywords[7]}!").found == {pattern_of(keywords[7])}


def test_routers_that_look_for_the_same_share_what_finds_it() -> None:
    wanted = frozenset(patterns_of(["only here", "and here"]))
    search = search_for(wanted)
    assert search_for(frozenset(patterns_of(["And here", "ONLY here"]))) is search
    kept = weakref.ref(search)
    del search
    gc.collect()
    assert kept() is None


def test_no_text_takes_more_than_time_in_line_with_its_length() -> None:
    """Runs of spaces and of punctuation, a symbol of its own between all letters: eight times the text takes
    about eight times as long, and 64 times in square."""
    symbols = "".join(chr(0x2190 + number) + "a" for number in range(0x400))

    def seconds(text: str) -> float:
        return min(timed(lambda: one_line(text)) for _ in range(15))

    for text in (" ", ". ", "a     b", "a  b c d e f g h i j k l m n o p q r s t u v w ", "„a“ – ", symbols):
        short, long = ((text * size)[:size] for size in (2_000, 16_000))
        assert seconds(long) < 30 * seconds(short), text[:10]


def test_no_more_of_a_message_is_read_than_is_meant_to_be() -> None:
    assert abs(count("word " * 100_000) - 100_000) < 100
    long = "first " + "word " * 10_000 + "middle " + "word " * 10_000 + "last"
    assert [has(long, keyword) for keyword in ("first", "middle", "last")] == [True, False, True]
    assert len(looked_at(long)) == TEXT_CHARACTERS_MAX == len(looked_at("x" * TEXT_CHARACTERS_MAX))
    assert len(excerpt(long)) == EXCERPT_CHARACTERS_MAX
    assert excerpt(looked_at(long)) == excerpt(long)
    hidden = "word " * 1_600
    assert has(f"{hidden} poem {hidden}", "poem")
    assert Captures("{n}", {"n": "last {number}"}).fill(f"{long} 5") == "5"


@pytest.mark.parametrize(
    ("phrase", "message", "found"),
    [
        ("{number} points", "Give me 5 points, then 7 points", "5"),
        ("{number} points", "Give me five points", None),
        ("{number} points", "5points", None),
        ("in {number} words", "Say it IN 20\nwords", "20"),
        ("in {number} words", "in 20", None),
        ("{number} points", "points 5", None),
        ("{number} points", "1234567890 points", None),
        ("{number} points", "٣ points", None),
        ("tone: {word}", "Tone:   Friendly, please", "Friendly"),
        ("tone: {word}", "tone:", None),
        ("{word} style", f"{'x' * 41} style", None),
        ("{number}", "on 3 May", "3"),
        ("{number} points", "", None),
    ],
)
def test_a_capture_is_what_stands_in_its_place(phrase: str, message: str, found: str | None) -> None:
    filled = Captures("<{x}>", {"x": phrase}).fill(message)
    assert filled == (None if found is None else f"<{found}>")


def test_a_text_has_all_its_captures_or_is_not_used() -> None:
    captures = Captures(
        'Give {n} points in a {tone} tone, as {"json": 1} or {other}.',
        {"n": "{number} points", "tone": "be {word}"},
    )
    assert captures.fill("5 points, be kind") == 'Give 5 points in a kind tone, as {"json": 1} or {other}.'
    assert captures.fill("5 points") is None


def test_what_was_captured_is_not_filled_in_again() -> None:
    captures = Captures("{a} {b}", {"a": "first {word}", "b": "second {word}"})
    assert captures.fill("first b second a") == "b a"


def test_captures_take_time_in_line_with_the_message() -> None:
    """The worst message for the phrase: every word could begin it. Eight times the words take about eight
    times as long, and 64 times in square."""
    captures = Captures("{x}", {"x": "a a a a a a a a a a a a a a a a a a a a a a a a a a a {number}"})

    def seconds(words: int) -> float:
        message = "a " * words
        return min(timed(lambda: captures.fill(message)) for _ in range(7))

    assert seconds(2_000) < 24 * seconds(250)


def timed(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun
