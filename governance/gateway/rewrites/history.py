"""The history window: a long conversation is sent without its beginning.

A window that slides with each turn gives every request another beginning, and the prompt cache nothing to
read. So the cut stays where it is for a block of turns: with `above_messages` 20 and `keep_messages` 10 all
conversations of 21 to 30 messages begin at the eleventh, those of 31 to 40 at the twenty-first.

What is left begins with a message of the user's that answers no tool call: every tool result keeps its call.
Where there is no such message the cut is the one of the block before, or none is made. `system` messages of
the part that goes are still in force; they follow the message that is now the first.
"""

from bisect import bisect_left

import msgspec
from msgspec import Raw

from governance.gateway.request import ABSENT, Body, Fields, Message, value_of
from governance.gateway.rewrites.draft import (
    Draft,
    NotDone,
    has_block,
    holds_signed_thinking,
    is_of_type,
    text_before,
    with_key,
)
from governance.routing.document import History

SUMMARY_HEADING = "Summary of the earlier conversation, which is left out here:"
SUMMARISED_BYTES_MAX = 200_000
_RESULTS = frozenset({b'"tool_result"'})
_CALLS = frozenset({b'"tool_use"'})
_TEXT = frozenset({b'"text"'})


class Cut(msgspec.Struct, frozen=True):
    """`first`: the index of the message that the rest begins with. `standing`: the indexes of system
    messages before it."""

    first: int
    standing: tuple[int, ...]


def cut_of(fields: Body, terms: History) -> Cut | NotDone | None:
    """Where the conversation is cut; None where it is short enough."""
    messages = fields.messages
    turns = [index for index, message in enumerate(messages) if message.role != "system"]
    count = len(turns)
    if count <= terms.above_messages:
        return None
    if holds_signed_thinking(fields):
        return NotDone("the conversation holds signed thinking, which is bound to every message before it")
    step = max(1, terms.above_messages - terms.keep_messages)
    newest = (count - terms.above_messages - 1) // step * step + step
    last = count - terms.keep_messages
    places = [place for place in range(step, last + 1) if _may_begin(messages[turns[place]])]
    for begin in range(newest, 0, -step):
        index = bisect_left(places, begin)
        if index < len(places):
            return _checked(messages, turns[places[index]])
    return NotDone("no message of the part to keep could be the first without losing the call of a tool")


def window(draft: Draft, terms: History, summary: str | None = None) -> Draft | NotDone:
    """Without what is before the cut. `summary` stands before the first message that is left."""
    cut = cut_of(draft.fields, terms)
    if cut is None:
        return draft
    if isinstance(cut, NotDone):
        return cut
    messages = draft.messages
    first: bytes | Raw = messages[cut.first]
    if summary:
        content = msgspec.json.decode(first, type=Fields)["content"]
        first = with_key(first, "content", text_before(f"{SUMMARY_HEADING}\n{summary}", content))
    standing = [messages[index] for index in cut.standing]
    return draft.with_messages([first, *standing, *messages[cut.first + 1 :]])


def text_to_summarise(fields: Body, terms: History) -> str | None:
    """What the cut takes away, as text for the one who summarises it: its newest SUMMARISED_BYTES_MAX bytes.
    None where nothing is cut. It is the same for all turns of a block, so a summary can be kept by it."""
    cut = cut_of(fields, terms)
    if cut is None or isinstance(cut, NotDone):
        return None
    parts: list[str] = []
    size = 0
    for message in reversed(fields.messages[: cut.first]):
        text = "" if message.role == "system" else _text(message)
        if text:
            parts.append(f"{message.role}: {text}")
            size += len(text.encode())
        if size > SUMMARISED_BYTES_MAX:
            break
    whole = "\n\n".join(reversed(parts)).encode()
    return whole[-SUMMARISED_BYTES_MAX:].decode(errors="ignore")


def _may_begin(message: Message) -> bool:
    return message.role == "user" and not has_block(message, _RESULTS)


def _checked(messages: list[Message], first: int) -> Cut | NotDone:
    """The cut, once no result is left whose call went with the rest."""
    calls: set[bytes] = set()
    for message in messages[first:]:
        if isinstance(message.content, str):
            continue
        for block in message.content:
            if is_of_type(block, _CALLS):
                calls.add(bytes(block.get("id", ABSENT)))
            elif is_of_type(block, _RESULTS) and bytes(block.get("tool_use_id", ABSENT)) not in calls:
                return NotDone("a tool result would be left without its call")
    standing = [index for index, message in enumerate(messages[:first]) if message.role == "system"]
    return Cut(first, tuple(standing))


def _text(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    blocks = [block for block in message.content if is_of_type(block, _TEXT)]
    texts = [value_of(block.get("text", ABSENT), str) for block in blocks]
    return "\n".join(text for text in texts if text)
