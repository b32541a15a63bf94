"""Made-up token counts still have to behave like counts."""

import anthropic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.simulator.tokens import TOOLS_OVERHEAD_TOKENS, bytes_of_tokens, tokens_of_bytes
from tests.simulator.asking import HELLO, MODEL

QUESTION = {"model": MODEL, "messages": HELLO["messages"]}


@given(st.integers(0, 10_000_000), st.sampled_from(["old", "new"]))
def test_text_is_never_more_than_a_token_per_byte(size: int, tokenizer: str) -> None:
    assert 0 <= tokens_of_bytes(size, tokenizer) <= size


@given(st.integers(0, 2_000_000), st.sampled_from(["old", "new"]))
def test_the_bytes_of_so_many_tokens_count_as_exactly_so_many(tokens: int, tokenizer: str) -> None:
    size = bytes_of_tokens(tokens, tokenizer)
    assert tokens_of_bytes(size, tokenizer) == tokens
    assert tokens_of_bytes(size + 1, tokenizer) == tokens + 1


def test_tools_pay_for_their_hidden_system_prompt(client: anthropic.Anthropic) -> None:
    tool = {"name": "t", "input_schema": {"type": "object"}}
    without = client.messages.count_tokens(**QUESTION).input_tokens
    one = client.messages.count_tokens(**QUESTION, tools=[tool]).input_tokens
    two = client.messages.count_tokens(**QUESTION, tools=[tool, tool]).input_tokens
    assert one - without == TOOLS_OVERHEAD_TOKENS + (two - one)


@pytest.mark.parametrize(("kind", "least"), [("image", 1_600), ("document", 3_000)])
def test_base64_is_not_counted_as_text(client: anthropic.Anthropic, kind: str, least: int) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "A" * 100_000}
    content = [{"type": kind, "source": source}, {"type": "text", "text": "What is it?"}]
    counted = client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": content}])
    assert least < counted.input_tokens < least + 20
