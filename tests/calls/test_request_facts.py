"""What is kept of a request: sizes, counts and fingerprints, and never a word of it."""

import json
from types import SimpleNamespace

import pytest

from governance.calls.keywords import keyword_scores
from governance.calls.request_facts import (
    FINGERPRINT_BYTES,
    PIECES_MAX,
    Fingerprints,
    RequestFacts,
    cache_digest,
    fingerprint,
    request_facts,
)
from governance.gateway.request import read_request

KEY = b"a tenant's own fingerprint key.."
TEXT = "The quarterly figures of Zanzibar & Söhne are secret."


def facts_of(*, key: bytes = KEY, reply: bytes = b"", **fields: object) -> RequestFacts:
    body = {"model": "claude-opus-5-5", "max_tokens": 500, "messages": [user(TEXT)]} | fields
    return request_facts(read_request(json.dumps(body, separators=(",", ":")).encode()), key, reply)


def shape(**fields: object) -> SimpleNamespace:
    return SimpleNamespace(**json.loads(facts_of(**fields).facts))


def prints(**fields: object) -> Fingerprints:
    return Fingerprints.unpack(facts_of(**fields).fingerprints)


def user(content: object) -> dict[str, object]:
    return {"role": "user", "content": content}


def text(words: str, **more: object) -> dict[str, object]:
    return {"type": "text", "text": words, **more}


EPHEMERAL = {"cache_control": {"type": "ephemeral"}}
AN_HOUR = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA" * 50}}
DOCUMENT = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": TEXT}}


def conversation(turns: int) -> list[dict[str, object]]:
    return [user(f"turn {number}") for number in range(turns)]


# --- Facts ---------------------------------------------------------------------------------------
def test_bytes_and_words_are_kept_per_section():
    found = shape(
        system="one two three",
        tools=[{"name": "t", "description": "four words are here", "input_schema": {}}],
        messages=[
            user("five six"),
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "x", "name": "t", "input": {"a": 1}}],
            },
            user([{"type": "tool_result", "tool_use_id": "x", "content": "seven " * 100}, IMAGE, DOCUMENT]),
            user("eight"),
        ],
    )
    assert found.bytes.keys() == {"sys", "tool", "hist", "last", "res", "doc", "img"}
    assert found.words.keys() == {"sys", "tool", "hist", "last", "res", "doc"}
    assert found.bytes["sys"] == len('"one two three"')
    assert found.words["sys"] == 3
    assert found.words["res"] == 101
    assert found.bytes["res"] > 600
    assert found.bytes["img"] > 200
    assert found.n == {"msg": 4, "tool": 1, "call": 1, "res": 1, "img": 1, "doc": 1}


def test_words_of_a_long_block_are_estimated_from_its_start():
    assert shape(system=[text("word " * 10_000)]).words["sys"] == pytest.approx(10_000, rel=0.05)


def test_cache_breakpoints_are_counted_by_lifetime():
    found = shape(
        system=[text("s", **AN_HOUR)],
        tools=[{"name": "t", "input_schema": {}, **AN_HOUR}],
        messages=[user([text("a", **EPHEMERAL), text("b", cache_control=None)])],
        cache_control={"type": "ephemeral"},
    )
    assert (found.n["bp5"], found.n["bp1"]) == (2, 2)


def test_settings_are_kept():
    found = shape(
        stop_sequences=["a", "b"],
        thinking={"type": "enabled", "budget_tokens": 2048},
        output_config={"effort": "high", "format": {"type": "json_schema", "schema": {}}},
    )
    assert (found.max, found.stop, found.think, found.budget) == (500, 2, "enabled", 2048)
    assert (found.effort, found.fmt) == ("high", "json_schema")


def test_a_name_that_the_client_made_up_is_not_kept():
    found = shape(thinking={"type": TEXT}, output_config={"effort": TEXT, "format": {"type": TEXT}})
    assert (found.think, found.effort, found.fmt) == ("other", "other", "other")


def test_no_word_of_the_request_is_kept():
    rows = facts_of(
        system=TEXT,
        tools=[{"name": "Zanzibar", "description": TEXT, "input_schema": {}}],
        messages=[user([text(TEXT), DOCUMENT, {"type": "Zanzibar", "Söhne": TEXT}])],
        stop_sequences=["Zanzibar"],
        reply=TEXT.encode(),
    )
    kept = rows.facts.encode() + rows.fingerprints
    for word in ("Zanzibar", "Söhne", "secret", "figures"):
        assert word.encode() not in kept
        assert word.encode().lower() not in kept


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ("Fix the failing test in this Python function", "code"),
        ("Translate this to French", "translate"),
        ("Classify the sentiment as one of these labels", "classify"),
        ("Extract all fields as JSON", "extract"),
        ("Write a short poem", "create"),
        ("first line\nSummarise\nlast line", "summarise"),
    ],
)
def test_the_last_user_message_says_what_it_asks_for(message, name):
    assert max(keyword_scores(json.dumps(message).encode()).items(), key=lambda hit: hit[1])[0] == name
    filler = {"role": "assistant", "content": "poem essay story slogan headline"}
    assert name in shape(messages=[user("hello"), user([text(message)]), filler]).kw


def test_only_the_ends_of_a_long_message_are_looked_at():
    assert keyword_scores(b"x " * 1_000 + b"translate " + b"x " * 1_000) == {}
    assert keyword_scores(b"x " * 1_000 + b" translate") == {"translate": 1}


# --- Fingerprints --------------------------------------------------------------------------------
def test_equal_pieces_have_equal_fingerprints_and_different_ones_do_not():
    tool = {"name": "t", "input_schema": {}}
    one = prints(system="a\n\nb", tools=[tool], messages=[user([text("x"), DOCUMENT]), user("y")])
    two = prints(system="b", tools=[tool, {**tool, "name": "u"}], messages=[user([DOCUMENT]), user("y")])
    assert len(one.system) == 2
    assert one.system[1] == two.system[0] != one.system[0]
    assert one.tools[0] == two.tools[0] != two.tools[1]
    assert one.documents == two.documents
    assert one.messages[1] == two.messages[1]
    assert one.messages[0] != two.messages[0]
    assert {len(one.reply), len(one.prefix), *map(len, one.messages)} == {FINGERPRINT_BYTES}


def test_a_system_prompt_reads_the_same_as_text_and_as_blocks():
    assert prints(system="a\n\nb").system == prints(system=[text("a"), text("b")]).system


def test_two_tenants_have_nothing_in_common():
    one, other = facts_of(reply=b"hi"), facts_of(reply=b"hi", key=b"another tenant's fingerprint key")
    assert one.facts == other.facts
    mine, theirs = Fingerprints.unpack(one.fingerprints), Fingerprints.unpack(other.fingerprints)
    assert not {*mine.messages, mine.reply} & {*theirs.messages, theirs.reply}


def test_moving_a_cache_breakpoint_leaves_the_conversation_the_same():
    plain = prints(system=[text("s")], messages=[user([text("x")])])
    marked = prints(system=[text("s", **EPHEMERAL)], messages=[user([text("x", **EPHEMERAL)])])
    assert plain == marked


@pytest.mark.parametrize("turns", [1, PIECES_MAX, PIECES_MAX + 1, 100])
def test_a_continued_conversation_is_known_by_its_prefix(turns):
    before, after = prints(messages=conversation(turns)), prints(messages=conversation(turns + 2))
    assert len(before.messages) == min(turns, PIECES_MAX)
    assert before.prefixes()[-1] in after.prefixes()
    other = [user("another start"), *conversation(turns + 2)[1:]]
    assert before.prefixes()[-1] not in prints(messages=other).prefixes()


def test_the_order_of_messages_counts():
    a, b = user("a"), user("b")
    assert prints(messages=[a, b]).prefixes()[-1] != prints(messages=[b, a]).prefixes()[-1]


def test_fingerprints_of_every_kind_are_capped_and_come_back_from_their_bytes():
    many = [{"name": f"t{number}", "input_schema": {}} for number in range(300)]
    packed = facts_of(
        tools=many, system="p\n\n" * 300, messages=[user([DOCUMENT] * 300), *conversation(300)], reply=b"r"
    ).fingerprints
    found = Fingerprints.unpack(packed)
    lists = (found.system, found.tools, found.documents, found.messages)
    assert [len(each) for each in lists] == [PIECES_MAX] * 4
    assert found.reply == fingerprint(KEY, b"r")
    assert len(packed) == 5 + FINGERPRINT_BYTES * (2 + 4 * PIECES_MAX)
    with pytest.raises(ValueError, match="version 9"):
        Fingerprints.unpack(b"\x09" + packed[1:])


def test_a_call_without_a_reply_has_an_empty_fingerprint_of_it():
    assert prints().reply == bytes(FINGERPRINT_BYTES)


# --- The response cache's key --------------------------------------------------------------------
def test_the_cache_key_changes_with_everything_that_could_change_the_answer():
    base = (7, "claude-opus-5-5", "2023-06-01", "a,b", b"{}")
    digests = {cache_digest(*base)}
    for place, other in enumerate((8, "claude-haiku-5-5", "2026-10-21", "a", b"{ }")):
        digests.add(cache_digest(*base[:place], other, *base[place + 1 :]))
    digests.add(cache_digest(7, "claude-opus-5-5", "2023-06-01a", ",b", b"{}"))
    assert len(digests) == 7
    assert {len(digest) for digest in digests} == {32}
    assert cache_digest(*base) in digests
