"""Keywords are whole words in any case; captures are what stands in their place, and nothing else."""

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.routing.captures import Captures
from governance.routing.facts import TEXT_CHARACTERS_MAX, looked_at
from governance.routing.words import Keyword, Words
from tests.routing import naive


def has(text: str, keyword: str) -> bool:
    wanted = Keyword(keyword)
    return Words(text, wanted.words).has(wanted)


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
    ],
)
def test_keywords_are_whole_words_in_any_case(text: str, keyword: str, found: bool) -> None:
    assert has(text, keyword) is found


@given(text=st.text(max_size=60), keyword=st.text(alphabet="abAB éß-'“ \u00a0", min_size=2, max_size=8))
def test_a_keyword_is_found_where_a_naive_reading_finds_it(text: str, keyword: str) -> None:
    words = naive.re.findall(r"\w+", f"{text} {keyword} {text}".casefold())
    if Keyword(keyword).words:
        assert has(f"{text} {keyword} {text}", keyword)
        assert has(text, keyword) is naive.said(keyword, naive.re.findall(r"\w+", text.casefold()))
    assert Words(f"{text} {keyword} {text}").count == len(words)


def test_no_more_of_a_message_is_read_than_is_meant_to_be() -> None:
    assert abs(Words("word " * 100_000).count - 100_000) < 100
    long = "first " + "word " * 10_000 + "middle " + "word " * 10_000 + "last"
    assert [has(long, keyword) for keyword in ("first", "middle", "last")] == [True, False, True]
    assert len(looked_at(long)) == TEXT_CHARACTERS_MAX == len(looked_at("x" * TEXT_CHARACTERS_MAX))
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
