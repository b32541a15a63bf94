"""A conversation stays on the model that answered it, however it came there."""

import asyncio
import secrets
from typing import Any

import pytest
import redis
from django.conf import settings

from governance.budgets.limits import change_budget
from governance.budgets.models import Budget
from governance.core.money import nanos_to_usd, usd_to_nanos
from governance.gateway.conversations import Conversation, Conversations
from governance.gateway.lookups import Lookups
from governance.valkey.link import Link
from tenants.scope import platform_scope
from tests.gateway.asking import ASK, HELLO, post, script
from tests.gateway.policies import govern
from tests.gateway.test_fallbacks import degrade, failing, fall_back, room_for
from tests.harness import Account, Stack, make_tenant, wait_until

ASKED, CHEAP, DEAR = "claude-sonnet-5-5", "claude-haiku-5-5", "claude-opus-5-5"
LATER: list[Any] = [
    *HELLO,
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "And now?"},
]
CASCADE = """
    rules:
      - name: Cheap first
        then: {route: {cascade: {first: {tier: haiku}, then: {tier: opus}, checks: [hedging]}}}
"""


def answered_by(stack: Stack, account: Account, messages: list[Any], **headers: Any) -> str:
    response = post(stack, account, {**ASK, "messages": messages}, **headers)
    assert response.status_code == 200, response.text
    return str(response.headers["exchequer-model"])


def test_after_a_fallback_it_stays_with_the_model_that_answered(stack: Stack, account: Account) -> None:
    fall_back(account, CHEAP)
    assert answered_by(stack, account, HELLO, headers=failing(account, 1)) == CHEAP
    assert answered_by(stack, account, LATER) == CHEAP
    account.wait_for_calls(2)
    assert [attempt.requested_model for attempt in account.attempts()] == [ASKED, CHEAP, CHEAP]


def test_a_model_that_did_not_answer_either_is_none_to_stay_with(stack: Stack, account: Account) -> None:
    fall_back(account, CHEAP)
    assert answered_by(stack, account, HELLO) == ASKED
    failed = post(stack, account, {**ASK, "messages": LATER}, headers=failing(account, 2))
    assert failed.status_code == 529
    assert answered_by(stack, account, LATER) == ASKED


def test_it_leaves_a_model_that_the_tenant_has_come_to_deny(stack: Stack, account: Account) -> None:
    govern(account, f"rules: [{{name: a rule, then: {{fallbacks: [{{model: {CHEAP}}}]}}}}]", scope="key")
    assert answered_by(stack, account, HELLO, headers=failing(account, 1)) == CHEAP
    assert answered_by(stack, account, LATER) == CHEAP
    govern(account, "rules: [{name: no Haiku, when: {tiers: [haiku]}, then: {deny: Not for us.}}]")
    wait_until(lambda: post(stack, account, {**ASK, "model": CHEAP}).status_code == 400, 5)
    assert answered_by(stack, account, LATER) == ASKED


def test_it_leaves_a_denied_model_also_where_the_tenants_rule_decides_this_turn(
    stack: Stack, account: Account
) -> None:
    """The key's rule chose the model in the first turn; what the tenant's chooses next is no excuse."""
    all_to_haiku = "{name: all, then: {route: {tier: haiku}}}"
    govern(
        account,
        "rules: [{name: hard, when: {keywords: {any: [hello]}}, then: {route: {tier: opus}}}]",
        scope="key",
    )
    govern(account, f"rules: [{all_to_haiku}]")
    assert answered_by(stack, account, HELLO) == DEAR
    assert answered_by(stack, account, LATER) == DEAR
    govern(
        account,
        f"rules: [{{name: no Opus, when: {{tiers: [opus]}}, then: {{deny: Not for us.}}}}, {all_to_haiku}]",
    )
    wait_until(lambda: post(stack, account, {**ASK, "model": DEAR}).status_code == 400, 5)
    assert answered_by(stack, account, LATER) == CHEAP


def turns() -> tuple[Conversation, Conversation]:
    """Two of the same conversation, one after the other."""
    first, second = secrets.token_bytes(16), secrets.token_bytes(16)
    return Conversation((), first), Conversation((first,), second)


def workers(are_one: bool, url: str = settings.REDIS_URL) -> tuple[Conversations, Conversations]:
    link = Link(url)
    lookups = Lookups(link, lambda what: None)
    one = Conversations(link, lookups)
    return one, one if are_one else Conversations(link, lookups)


async def told(worker: Conversations, conversation: Conversation, model: str, *, moved: bool) -> None:
    worker.remember(conversation, model, moved=moved)
    if worker._writing:
        await asyncio.wait(worker._writing)


async def test_every_worker_sees_a_conversation_move_and_remembers_it_without_valkey() -> None:
    link, name = Link(settings.REDIS_URL), secrets.token_bytes(16)
    session = Conversation((name,), name, is_named=True)
    lookups = Lookups(link, lambda what: None)
    one, other = Conversations(link, lookups), Conversations(link, lookups)
    await told(one, session, ASKED, moved=True)
    assert await other.model(session) == ASKED
    await told(other, session, CHEAP, moved=True)
    assert await one.model(session) == CHEAP
    one.remember(session, CHEAP, moved=True)
    assert not one._writing, "what is known is not written again"
    lookups.away = True
    assert await one.model(session) == CHEAP
    assert await one.model(turns()[1]) is None
    await one.stop()


@pytest.mark.parametrize("same_worker", [True, False])
async def test_of_calls_that_said_the_same_and_went_to_different_models_nothing_is_known(
    same_worker: bool,
) -> None:
    one, other = workers(same_worker)
    first, second = turns()
    await told(one, first, CHEAP, moved=True)
    await told(other, first, CHEAP, moved=True)
    assert await one.model(second) == CHEAP
    await told(other, first, DEAR, moved=True)
    assert await one.model(second) is None
    await told(one, first, CHEAP, moved=True)
    assert await other.model(second) is None, "once in doubt, in doubt for as long as anything is remembered"
    await one.stop()


async def test_without_valkey_too_nothing_is_known_of_calls_that_went_to_different_models() -> None:
    worker, _ = workers(True, "redis://127.0.0.1:1/0")
    first, second = turns()
    await told(worker, first, CHEAP, moved=True)
    assert await worker.model(second) == CHEAP
    await told(worker, first, DEAR, moved=True)
    assert await worker.model(second) is None


@pytest.mark.parametrize("same_worker", [True, False])
async def test_a_beginning_that_was_not_moved_is_not_taken_for_one_that_was(same_worker: bool) -> None:
    one, other = workers(same_worker)
    first, second = turns()
    await told(one, first, CHEAP, moved=True)
    assert await other.model(second) == CHEAP
    await told(other, first, ASKED, moved=False)
    assert await one.model(second) is None
    await one.stop()


def test_examples_at_the_head_of_a_prompt_make_no_conversation(stack: Stack, account: Account) -> None:
    """Else all who send the same examples would stay on the model that answered one of them."""
    govern(
        account,
        """
        rules:
          - {name: Short, when: {words: {at_most: 3}}, then: {route: {tier: haiku}}}
          - {name: Long, then: {route: {tier: opus}}}
        """,
    )
    examples = [
        *LATER[:2],
        {"role": "user", "content": "Good night."},
        {"role": "assistant", "content": "Bye."},
    ]
    short = [*examples, {"role": "user", "content": "And now?"}]
    assert answered_by(stack, account, short) == CHEAP
    asks_more = [*examples, {"role": "user", "content": "What is the meaning of all this?"}]
    assert answered_by(stack, account, asks_more) == DEAR
    assert answered_by(stack, account, short) == CHEAP
    third = [*asks_more, {"role": "assistant", "content": "Nothing."}, {"role": "user", "content": "Oh."}]
    assert answered_by(stack, account, third) == DEAR, "but what follows is one"


def test_what_a_client_changes_in_what_it_sends_again_is_the_same_conversation(
    stack: Stack, account: Account
) -> None:
    """Breakpoints for the prompt cache move, thinking is left out, old results of tools are emptied."""
    govern(
        account,
        """
        rules:
          - {name: First, when: {turn: first}, then: {route: {tier: haiku}}}
          - {name: Later, then: {route: {tier: opus}}}
        """,
    )
    marked = {"type": "text", "text": "Look.", "cache_control": {"type": "ephemeral"}}
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    tools = [{"name": "look", "input_schema": {"type": "object"}}]

    def model(messages: list[Any]) -> str:
        return str(post(stack, account, {**ASK, "tools": tools, "messages": messages}).json()["model"])

    def result(text: str) -> dict[str, Any]:
        return {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": text}],
        }

    asked: list[Any] = [{"role": "user", "content": [marked]}]
    assert model(asked) == CHEAP
    second = [{"role": "user", "content": "Look."}, {"role": "assistant", "content": [call]}, result("Much.")]
    assert model(second) == CHEAP
    third = [*second[:2], result(""), {"role": "assistant", "content": "There."}, LATER[2]]
    assert model(third) == CHEAP
    other = [*second[:2], result(""), {"role": "assistant", "content": "There."}, LATER[2]]
    other[0] = {"role": "user", "content": "Look again."}
    assert model(other) == DEAR


def test_a_stranger_who_begins_with_the_same_words_moves_nobody(stack: Stack, account: Account) -> None:
    """Neither before the second turn, nor after it; what one has thought is not sent to another model."""
    govern(
        account,
        f"""
        rules:
          - name: FAQ
            when: {{tags: {{endpoint: faq}}, turn: first}}
            then: {{route: {{tier: haiku}}}}
          - name: Others
            then: {{fallbacks: [{{model: {CHEAP}}}]}}
        """,
    )
    faq = {"exchequer-tags": "endpoint=faq"}
    assert answered_by(stack, account, HELLO) == ASKED
    assert answered_by(stack, account, HELLO, headers=faq) == CHEAP
    assert answered_by(stack, account, LATER) == ASKED
    assert answered_by(stack, account, HELLO, headers=faq) == CHEAP
    assert answered_by(stack, account, LATER) == ASKED


def test_end_users_who_begin_alike_have_a_conversation_each(stack: Stack, account: Account) -> None:
    fall_back(account, CHEAP)
    ann, bob = ({**ASK, "metadata": {"user_id": name}} for name in ("ann", "bob"))
    failed = failing(account, 1)
    assert post(stack, account, ann, headers=failed).headers["exchequer-model"] == CHEAP
    later = {"messages": LATER}
    assert post(stack, account, {**ann, **later}).headers["exchequer-model"] == CHEAP
    assert post(stack, account, {**bob, **later}).headers["exchequer-model"] == ASKED


def test_a_turn_that_stays_says_so_and_credits_no_rule_with_its_model(stack: Stack, account: Account) -> None:
    govern(
        account,
        """
        rules:
          - name: First to Opus
            when: {turn: first}
            then: {route: {tier: opus}}
          - name: Later to Haiku
            when: {turn: later}
            then: {route: {tier: haiku}, max_tokens: {cap: 50}}
        """,
    )
    assert answered_by(stack, account, HELLO) == DEAR
    response = post(stack, account, {**ASK, "messages": LATER})
    assert response.headers["exchequer-model"] == DEAR
    assert "conversation=stays" in response.headers["exchequer-decision"]
    _, call = account.wait_for_calls(2)
    policy = call.decision["policy"]
    assert policy["why"] == f"{DEAR}: the conversation stays on its model"
    assert policy["applied"] == [
        {
            "rule": "Later to Haiku",
            "version": policy["applied"][0]["version"],
            "did": ["max_tokens at most 50"],
        }
    ]


def test_where_nothing_was_changed_nothing_is_remembered(stack: Stack, account: Account) -> None:
    """Calls under fallbacks that were not needed: their turns go where they ask to anyhow."""
    valkey = redis.from_url(settings.REDIS_URL)
    before = set(valkey.keys("exchequer:conversation:*"))
    fall_back(account, CHEAP)
    assert answered_by(stack, account, HELLO) == ASKED
    account.wait_for_calls(1)
    assert set(valkey.keys("exchequer:conversation:*")) <= before
    assert answered_by(stack, account, HELLO, headers=failing(account, 1)) == CHEAP
    account.wait_for_calls(2)
    assert len(set(valkey.keys("exchequer:conversation:*")) - before) == 1


def test_where_a_policy_says_sticky_false_the_next_turn_is_as_asked_again(
    stack: Stack, account: Account
) -> None:
    govern(
        account, f"{{sticky: false, rules: [{{name: a rule, then: {{fallbacks: [{{model: {CHEAP}}}]}}}}]}}"
    )
    assert answered_by(stack, account, HELLO, headers=failing(account, 1)) == CHEAP
    assert answered_by(stack, account, LATER) == ASKED


def test_after_a_budget_had_no_room_it_stays_on_the_cheaper_model_and_a_new_one_does_not(
    stack: Stack,
) -> None:
    ask = {**ASK, "max_tokens": 4000}
    least, most = (room_for(stack, {**ask, "model": model}) for model in (CHEAP, ASKED))
    account = make_tenant(nanos_to_usd((least + most) // 2))
    degrade(account, CHEAP)
    assert post(stack, account, ask).headers["exchequer-model"] == CHEAP
    with platform_scope():
        change_budget(Budget.objects.get(pk=account.budget_id), limit_nanos=usd_to_nanos("100"))
    assert post(stack, account, {**ask, "messages": LATER}).headers["exchequer-model"] == CHEAP
    assert post(stack, account, ask).headers["exchequer-model"] == ASKED


def test_after_an_escalation_it_stays_with_the_better_model(stack: Stack, account: Account) -> None:
    govern(account, CASCADE)
    unsure = script(text="I don't know.")
    assert answered_by(stack, account, HELLO, headers=unsure) == DEAR
    assert answered_by(stack, account, LATER, headers=unsure) == DEAR
    account.wait_for_calls(2)
    assert [attempt.requested_model for attempt in account.attempts()] == [CHEAP, DEAR, DEAR]


def test_after_an_escalation_in_vain_it_stays_with_the_model_whose_reply_was_given(
    stack: Stack, account: Account
) -> None:
    govern(account, CASCADE)
    slug = account.tenant.slug
    failed = script(id=slug, tag=slug, text="I don't know.", error={"type": "overloaded_error", "after": 1})
    assert answered_by(stack, account, HELLO, headers=failed) == CHEAP
    assert answered_by(stack, account, LATER) == CHEAP


def test_an_answer_from_the_cache_begins_a_conversation_too(stack: Stack, account: Account) -> None:
    govern(
        account,
        """
        rules:
          - name: Beginnings go to Haiku
            when: {turn: first}
            then: {route: {tier: haiku}, cache: {ttl_seconds: 60, scope: tenant}}
        """,
    )
    assert answered_by(stack, account, HELLO) == CHEAP
    account.wait_for_calls(1)
    session = {"x-claude-code-session-id": f"session-{secrets.token_hex(4)}"}
    response = post(stack, account, {**ASK, "messages": HELLO}, headers=session)
    assert response.headers["exchequer-cache"] == "hit"
    assert answered_by(stack, account, LATER, headers=session) == CHEAP


def test_an_agent_beside_it_moves_no_conversation_of_the_same_session(stack: Stack, account: Account) -> None:
    """Claude Code's main agent and its sub-agents name one session and may ask for one model."""
    govern(
        account,
        """
        rules:
          - name: Small jobs
            when: {turn: first, words: {at_most: 4}}
            then: {route: {tier: haiku}}
          - name: Others
            when: {turn: first}
            then: {route: {tier: sonnet}}
        """,
    )
    session = {"x-claude-code-session-id": f"session-{secrets.token_hex(4)}"}
    text = {"type": "text", "text": "Rename the function in every module, please."}
    marked = {**text, "cache_control": {"type": "ephemeral"}}  # as the newest message is, and later is not
    ask: dict[str, Any] = {**ASK, "model": DEAR}

    def model(content: Any, *more: Any) -> str:
        messages = [{"role": "user", "content": content}, *more]
        return str(post(stack, account, {**ask, "messages": messages}, headers=session).json()["model"])

    assert model([marked]) == ASKED
    assert model("Look around.") == CHEAP
    assert model([text], *LATER[1:]) == ASKED
    assert model(text["text"], *LATER[1:]) == ASKED
    assert model("Look around.", *LATER[1:]) == CHEAP
