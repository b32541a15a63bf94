"""The official SDK against the gateway and the simulator: what it can do with Claude, it can do with us."""

from tests.harness import Account, Stack

HELLO = [{"role": "user", "content": "Hello"}]


def test_create_answers_and_is_charged_exactly(stack: Stack, account: Account) -> None:
    message = account.client(stack).messages.create(model="claude-sonnet-5-5", max_tokens=64, messages=HELLO)
    assert message.content[0].type == "text"
    (call,) = account.wait_for_calls(1)
    assert (call.outcome, call.status) == ("served", 200)
    assert call.cost_nanos > 0
    assert account.period().spent_nanos == call.cost_nanos
