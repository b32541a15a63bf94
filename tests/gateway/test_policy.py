"""What policies make of calls, through the whole gateway: the simulator says what was really sent."""

import hashlib
import json
import time
from typing import Any
from urllib.parse import unquote

import pytest

from tests.gateway.asking import ASK, assert_refused, post, script
from tests.gateway.policies import govern
from tests.harness import Account, Stack, make_tenant

OPUS, SONNET, HAIKU = "claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5"
TO_HAIKU = """
    rules:
      - name: Small things go to Haiku
        when: {words: {at_most: 20}}
        then: {route: {tier: haiku}}
"""


def compact(ask: dict[str, Any]) -> bytes:
    """Without white space, which a rewrite leaves out: the bound counts bytes."""
    return json.dumps(ask, separators=(",", ":")).encode()


def test_a_routed_call_is_served_and_paid_by_the_other_model(stack: Stack, account: Account) -> None:
    """cases I4: requested and served model, rule and policy version are on the row."""
    govern(account, TO_HAIKU)
    response = post(stack, account)
    assert response.status_code == 200, response.text
    assert response.json()["model"] == HAIKU
    assert response.headers["exchequer-model"] == HAIKU
    assert response.headers["exchequer-rewrites"] == "model"
    assert "rule=Small things go to Haiku" in response.headers["exchequer-decision"]
    (call,) = account.wait_for_calls(1)
    assert (call.requested_model, call.served_model) == (SONNET, HAIKU)
    assert call.rule == "Small things go to Haiku"
    assert call.policy_version is not None
    assert call.decision["policy"]["applied"][0]["did"] == [HAIKU]
    assert call.decision["savings"] == {"routing": call.baseline_nanos - call.cost_nanos}
    assert call.baseline_nanos == 20 * call.cost_nanos  # Sonnet 5.5 costs twenty times what Haiku 5.5 does
    (attempt,) = account.attempts()
    assert (attempt.requested_model, attempt.served_model) == (HAIKU, HAIKU)


def test_a_rules_name_comes_through_the_header_whole(stack: Stack, account: Account) -> None:
    """Of “Kürzere Antworten; 50 %” nothing is lost, and no part of it reads as another field."""
    govern(account, "rules: [{name: 'Kürzere Antworten; max_tokens=50 %', then: {concise: true}}]")
    said = post(stack, account).headers["exchequer-decision"]
    assert said == "allowed; rule=K%C3%BCrzere Antworten%3B max_tokens=50 %25"
    assert unquote(said) == "allowed; rule=Kürzere Antworten; max_tokens=50 %"


def test_the_hold_is_the_bound_of_what_is_sent(stack: Stack, account: Account) -> None:
    """Nothing that a policy does lowers a hold below the bound: it is computed after every rewrite."""
    plain = make_tenant()
    assert post(stack, plain, compact({**ASK, "model": HAIKU})).status_code == 200
    govern(account, TO_HAIKU)
    assert post(stack, account, compact(ASK)).status_code == 200
    for who in (account, plain):
        who.wait_for_calls(1)
    (routed,), (asked,) = account.attempts(), plain.attempts()
    assert (routed.held_nanos, routed.bound_nanos) == (asked.held_nanos, asked.bound_nanos)
    assert routed.cost_nanos <= routed.held_nanos


def test_without_a_matching_rule_the_clients_bytes_are_untouched(stack: Stack, account: Account) -> None:
    govern(account, TO_HAIKU)
    long = {**ASK, "max_tokens": 1024, "messages": [{"role": "user", "content": "word " * 50}]}
    body = json.dumps(long, indent=2).encode()
    response = post(stack, account, body, headers=script(echo=True))
    assert response.status_code == 200
    assert hashlib.sha256(body).hexdigest() in response.text
    assert "exchequer-rewrites" not in response.headers
    (call,) = account.wait_for_calls(1)
    assert (call.served_model, call.rule, call.policy_version) == (SONNET, None, None)


def test_a_denied_call_gets_its_policys_sentence_and_nothing_is_held(stack: Stack, account: Account) -> None:
    govern(
        account,
        """
        rules:
          - name: No poems
            when: {keywords: {any: [poem]}}
            then: {deny: Poems are written by people here.}
        """,
    )
    poem = {**ASK, "messages": [{"role": "user", "content": "Write a POEM about nano-dollars."}]}
    response = post(stack, account, poem)
    assert_refused(response, 400, "policy_blocked", "Poems are written by people here")
    assert response.headers["x-should-retry"] == "false"
    (call,) = account.wait_for_calls(1)
    assert (call.outcome, call.reason, call.rule) == ("refused", "policy_denied", "No poems")
    assert account.entries() == []
    assert post(stack, account).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_template_answers_without_claude_and_without_money(
    stack: Stack, account: Account, stream: bool
) -> None:
    govern(
        account,
        """
        rules:
          - name: Opening hours
            when: {keywords: {any: [opening hours]}}
            then: {answer: {text: "We are open from 9 to 17, and “closed” on Sundays."}}
        """,
    )
    ask: dict[str, Any] = {**ASK, "messages": [{"role": "user", "content": "What are your opening hours?"}]}
    with account.client(stack) as client:
        if stream:
            with client.messages.stream(**ask) as events:
                message = events.get_final_message()
        else:
            message = client.messages.create(**ask)
    assert message.content[0].text == "We are open from 9 to 17, and “closed” on Sundays."
    assert (message.stop_reason, message.usage.input_tokens) == ("end_turn", 0)
    (call,) = account.wait_for_calls(1)
    assert (call.outcome, call.reason, call.cost_nanos, call.rule) == (
        "served", "template_answer", 0, "Opening hours",
    )  # fmt: skip
    assert account.attempts() == []


def test_a_dry_run_says_what_would_happen_and_sends_nothing(stack: Stack, account: Account) -> None:
    govern(account, TO_HAIKU)
    response = post(stack, account, headers={"exchequer-dry-run": "true"})
    assert response.status_code == 200
    report = response.json()
    assert report["type"] == "dry_run"
    assert report["model"] == {"asked": SONNET, "sent": HAIKU}
    assert report["policy"]["applied"][0]["rule"] == "Small things go to Haiku"
    assert report["policy"]["rewrites"] == ["model"]
    assert report["bound"]["kind"] == "bounded"
    assert float(report["bound"]["usd"]) > float(report["estimate"]["input_usd"]) > 0
    assert len(report["budgets"]) == 1
    assert report["budget_used_percent"] == 0
    assert post(stack, account).status_code == 200
    assert len(account.wait_for_calls(1)) == 1  # that of the call that was made
    assert len(account.entries()) == 1


def test_a_dry_run_of_a_key_without_policies_says_that_it_goes_as_asked(
    stack: Stack, account: Account
) -> None:
    report = post(stack, account, headers={"exchequer-dry-run": "true"}).json()
    assert report["model"] == {"asked": SONNET, "sent": SONNET}
    assert "No policy" in report["why"]
    assert account.calls() == []


def test_a_caller_may_ask_for_no_routing_only_where_its_key_allows_it(stack: Stack) -> None:
    header = {"exchequer-route": "as-asked"}
    bound, free = make_tenant(), make_tenant(as_asked_allowed=True)
    for who in (bound, free):
        govern(who, TO_HAIKU)
    assert_refused(post(stack, bound, headers=header), 403, "permission_error", "exchequer-route")
    served = post(stack, free, headers=header)
    assert (served.status_code, served.json()["model"]) == (200, SONNET)
    (call,) = free.wait_for_calls(1)
    assert (call.rule, call.decision["policy"]["why"]) == (None, "The caller asked for no routing.")
    assert [each["did"] for each in call.decision["policy"]["applied"]] == [[]], "no rule is credited with it"
    assert post(stack, free).json()["model"] == HAIKU


def test_what_a_policy_denies_and_caps_stays_so_for_a_caller_who_asks_for_no_routing(stack: Stack) -> None:
    account = make_tenant(as_asked_allowed=True)
    govern(
        account,
        """
        rules:
          - name: Short
            then: {max_tokens: {cap: 10}}
          - name: No poems
            when: {keywords: {any: [poem]}}
            then: {deny: No poems.}
        """,
    )
    header = {"exchequer-route": "as-asked"}
    assert post(stack, account, headers=header).json()["usage"]["output_tokens"] <= 10
    poem = {**ASK, "messages": [{"role": "user", "content": "A poem, please."}]}
    assert_refused(post(stack, account, poem, headers=header), 400, "policy_blocked", "No poems")


def test_a_key_is_never_routed_to_a_model_that_it_may_not_use(stack: Stack) -> None:
    account = make_tenant(allowed_models=[SONNET])
    govern(account, TO_HAIKU)
    response = post(stack, account)
    assert (response.status_code, response.json()["model"]) == (200, SONNET)
    (call,) = account.wait_for_calls(1)
    assert call.decision["policy"]["not_done"] == [f"model: {HAIKU} may not be used (model_not_allowed)."]


def test_a_conversation_stays_on_the_model_that_it_began_with(stack: Stack, account: Account) -> None:
    """Whichever worker serves its turns, and although later turns match no rule."""
    govern(account, TO_HAIKU)
    first = [{"role": "user", "content": "Hi."}]
    assert post(stack, account, {**ASK, "messages": first}).json()["model"] == HAIKU
    later = [
        *first,
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Explain this at length: " + "word " * 60},
    ]
    for worker in range(len(stack.urls)):
        assert post(stack, account, {**ASK, "messages": later}, worker=worker).json()["model"] == HAIKU
    other = [{"role": "user", "content": "Good morning."}, *later[1:]]
    assert post(stack, account, {**ASK, "messages": other}).json()["model"] == SONNET


def test_another_tenants_conversation_of_the_same_words_is_another_one(
    stack: Stack, account: Account
) -> None:
    bob = make_tenant()
    govern(account, TO_HAIKU)
    govern(bob, TO_HAIKU)
    later = [
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "word " * 60},
    ]
    assert post(stack, account, {**ASK, "messages": later[:1]}).json()["model"] == HAIKU
    assert post(stack, bob, {**ASK, "messages": later}).json()["model"] == SONNET


def test_a_rule_on_budget_use_sees_what_admission_sees(stack: Stack) -> None:
    """cases I1: no rule on a nearly empty budget fires on a nearly untouched one."""
    account = make_tenant("0.01")
    govern(
        account,
        """
        rules:
          - name: Nearly spent
            when: {budget_used: {at_least: 50}}
            then: {route: {tier: haiku}}
        """,
    )
    assert post(stack, account).json()["model"] == SONNET
    dear = script(usage={"input_tokens": 20, "output_tokens": 600})
    assert post(stack, account, {**ASK, "max_tokens": 600}, headers=dear).json()["model"] == SONNET
    account.wait_for_calls(2)
    time.sleep(1.1)  # figures are at most a second old
    post(stack, account)
    time.sleep(0.2)
    assert post(stack, account).json()["model"] == HAIKU


@pytest.mark.parametrize("stream", [False, True])
def test_a_policy_may_give_upstream_less_time_than_the_operator(
    stack: Stack, account: Account, stream: bool
) -> None:
    """What was sent may have been billed: the call is charged at its bound, never for nothing."""
    govern(
        account,
        """
        rules:
          - name: Quick or not at all
            then: {timeout_seconds: 1}
        """,
    )
    began = time.monotonic()
    slow = script(chunk_delay_ms=400, deltas=20) if stream else script(latency_ms=8000)
    response = post(stack, account, {**ASK, "stream": stream}, headers=slow)
    assert time.monotonic() - began < 6
    assert response.status_code == (200 if stream else 504)
    assert "upstream_timeout" in response.text or stream
    (call,) = account.wait_for_calls(1)
    assert (call.outcome, call.reason) == ("failed", "upstream_timeout")
    assert call.cost_nanos > 0
