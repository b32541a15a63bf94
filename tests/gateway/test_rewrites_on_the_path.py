"""Rewrites through the whole gateway: what reaches Claude, what the client is told, what the ledger says."""

import secrets
import time
from typing import Any

from tests.gateway.asking import ASK, HELLO, post, script
from tests.gateway.policies import govern
from tests.gateway.rewrites.bodies import chat, encoded
from tests.harness import Account, Stack

SONNET, HAIKU = "claude-sonnet-5-5", "claude-haiku-5-5"


def test_a_conversation_whose_beginning_is_cut_is_still_the_same_conversation(
    stack: Stack, account: Account
) -> None:
    govern(
        account,
        """
        rules:
          - name: Small things go to Haiku
            when: {turn: first}
            then: {route: {tier: haiku}}
          - name: Not all of it
            then: {history: {above_messages: 6, keep_messages: 3}}
        """,
    )
    for messages in (1, 3, 5, 7, 9, 11):
        response = post(stack, account, chat(messages, model=SONNET))
        assert (response.status_code, response.headers["exchequer-model"]) == (200, HAIKU)
    assert response.headers["exchequer-rewrites"] == "model, history(-6)"


def test_prompts_that_come_again_are_marked_and_what_that_saved_is_on_the_call(
    stack: Stack, account: Account
) -> None:
    """cases I5: clients without cache_control; a measured saving, and an off switch."""
    govern(account, "rules: [{name: Cached, when: {tags: {endpoint: faq}}, then: {prompt_cache: true}}]")
    rules = f"{secrets.token_hex(8)} " + "Answer by these rules. " * 400
    faq = {"exchequer-tags": "endpoint=faq"}
    told = []
    for number in range(4):
        question = {"role": "user", "content": f"Question {number}?"}
        raw = encoded({**ASK, "model": "claude-sonnet-5", "system": rules, "messages": [question]})
        told.append(post(stack, account, raw, headers=faq).headers.get("exchequer-rewrites"))
    assert told == [None, "prompt-cache(1)", "prompt-cache(1)", "prompt-cache(1)"]
    assert "exchequer-rewrites" not in post(stack, account, raw).headers
    calls = account.wait_for_calls(5)
    assert "prompt_cache" not in calls[0].decision
    assert "nothing of this prompt was seen" in calls[0].decision["policy"]["not_done"][0]
    wrote, read, read_again = (call.decision["prompt_cache"] for call in calls[1:4])
    assert (wrote["saved_nanos"], read["premium_nanos"]) == (0, 0)
    assert wrote["premium_nanos"] > 0
    assert read["saved_nanos"] == read_again["saved_nanos"] > 3 * wrote["premium_nanos"]
    assert wrote["prefix"] == read["prefix"] == read_again["prefix"]
    for call in calls[1:4]:
        figures = call.decision["prompt_cache"]
        assert call.decision["savings"] == {"prompt_cache": figures["saved_nanos"] - figures["premium_nanos"]}
        assert call.baseline_nanos - call.cost_nanos == sum(call.decision["savings"].values())
    held = [attempt.held_nanos for attempt in account.attempts()]
    assert held[1] > held[0]  # the worst case of a marked prompt has the premium in it


def test_another_models_answer_says_nothing_of_a_marked_prompt(stack: Stack, account: Account) -> None:
    govern(
        account,
        "rules: [{name: Both, then: {prompt_cache: true, fallbacks: [{model: claude-haiku-5-5}]}}]",
    )
    system = f"{secrets.token_hex(8)} " + "Answer by these rules. " * 400
    ask = {**ASK, "model": "claude-sonnet-5", "system": system}
    overloaded = script(id=secrets.token_hex(4), error={"type": "overloaded_error", "times": 1})
    assert post(stack, account, ask).status_code == 200
    response = post(stack, account, ask, headers=overloaded)
    assert response.headers["exchequer-model"] == HAIKU
    assert response.headers["exchequer-rewrites"] == "prompt-cache(1)"
    call = account.wait_for_calls(2)[1]
    assert "prompt_cache" not in call.decision


def test_marks_make_no_difference_to_the_response_cache(stack: Stack, account: Account) -> None:
    """An answer is kept under the prompt without them; a hit is no sighting, since nothing is sent."""
    govern(account, "rules: [{name: Both, then: {cache: {ttl_seconds: 60}, prompt_cache: true}}]")
    rules = f"{secrets.token_hex(8)} " + "Answer by these rules. " * 400
    ask = {**ASK, "model": "claude-sonnet-5", "system": rules}
    raws = [encoded({**ask, "messages": [{"role": "user", "content": text}]}) for text in ("One?", "Two?")]
    first = [post(stack, account, raw).headers for raw in raws]
    assert [headers["exchequer-cache"] for headers in first] == ["miss", "miss"]
    assert first[1]["exchequer-rewrites"] == "prompt-cache(1)"
    account.wait_for_calls(2)
    time.sleep(0.2)
    again = [post(stack, account, raw).headers["exchequer-cache"] for raw in raws]
    assert again == ["hit", "hit"]
    calls = account.wait_for_calls(4)
    assert [set(call.decision["savings"]) for call in calls[1:]] == [
        {"prompt_cache"},
        {"response_cache"},
        {"response_cache"},
    ]


def test_what_a_rewrite_takes_out_is_saved_by_trimming(stack: Stack, account: Account) -> None:
    govern(account, "rules: [{name: Shorter, then: {history: {}, max_tokens: {cap: 50}}}]")
    response = post(stack, account, chat(25, 100, model="claude-sonnet-5"))
    assert response.headers["exchequer-rewrites"] == "history(-10), max-tokens"
    assert response.headers["exchequer-max-tokens"] == "50"
    (call,) = account.wait_for_calls(1)
    assert set(call.decision["savings"]) == {"trimming"}
    assert call.baseline_nanos > call.cost_nanos
    assert call.facts["n"]["msg"] == 25  # what the client sent


def test_count_tokens_counts_what_the_client_would_send(stack: Stack, account: Account) -> None:
    govern(account, "rules: [{name: Shorter, then: {history: {}, concise: true}}]")
    body: dict[str, Any] = {"model": "claude-sonnet-5", "messages": HELLO}
    response = post(stack, account, body, path="/v1/messages/count_tokens")
    assert response.status_code == 200
    assert response.json()["input_tokens"] < 20
