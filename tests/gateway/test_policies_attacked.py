"""What a policy's author, or a caller under a policy, must not get by it."""

from typing import Any

import pytest

from governance.core.money import usd_to_nanos
from tests.gateway.asking import ASK, post, script
from tests.gateway.policies import govern
from tests.gateway.test_classifying import QUICK, ask, classify
from tests.gateway.test_operator_rules import refused, refused_within_a_second
from tests.gateway.test_scopes import limit
from tests.harness import Account, Stack, make_tenant


def test_a_classifier_is_not_a_model_that_the_key_may_not_use(stack: Stack) -> None:
    account = make_tenant(allowed_models=["claude-sonnet-5-5"])
    classify(account, ", by: {tier: opus}")
    assert post(stack, account, ask(QUICK)).status_code == 200
    account.wait_for_calls(1)
    assert {attempt.requested_model for attempt in account.attempts()} == {"claude-sonnet-5-5"}


def test_a_classifier_is_not_a_model_that_the_operator_refuses(stack: Stack) -> None:
    account = make_tenant()
    classify(account, ", by: {model: claude-opus-4-6}")
    with refused("model", "claude-opus-4-6"):
        refused_within_a_second(stack, make_tenant(), {**ASK, "model": "claude-opus-4-6"})
        response = post(stack, account, ask(QUICK))
    assert response.status_code == 200
    (call,) = account.wait_for_calls(1)
    assert call.decision["classified"] == "not (name_refused)"
    assert [attempt.purpose for attempt in account.attempts()] == ["answer"]


def test_a_dry_run_leaves_no_trace_in_a_conversation(stack: Stack, account: Account) -> None:
    govern(account, "rules: [{name: a, when: {latency: [background]}, then: {route: {tier: haiku}}}]")
    later = {
        **ASK,
        "messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "And now?"},
        ],
    }
    dry = {"exchequer-dry-run": "true", "exchequer-latency-class": "background"}
    assert post(stack, account, later, headers=dry).json()["model"]["sent"] == "claude-haiku-5-5"
    assert post(stack, account, later).json()["model"] == "claude-sonnet-5-5"


def test_a_dry_run_gives_no_new_subject_a_pot(stack: Stack, account: Account) -> None:
    limit(account, "end_user", each=True, limit_nanos=usd_to_nanos("1"), subjects_max=5)
    govern(account, "rules: [{name: a, when: {budget_used: {at_least: 90}}, then: {route: {tier: haiku}}}]")
    for number in range(7):
        someone = {**ASK, "metadata": {"user_id": f"u{number}"}}
        report = post(stack, account, someone, headers={"exchequer-dry-run": "true"}).json()
        assert report["budget_used_percent"] == 0
    assert post(stack, account, {**ASK, "metadata": {"user_id": "ann"}}).status_code == 200


def test_a_dry_run_of_a_template_answer_is_a_dry_run(stack: Stack, account: Account) -> None:
    govern(account, "rules: [{name: a, then: {answer: {text: We are closed.}}}]")
    report = post(stack, account, headers={"exchequer-dry-run": "true"}).json()
    assert report["type"] == "dry_run"
    post(stack, account)
    assert len(account.wait_for_calls(1)) == 1


def test_a_dry_run_is_no_sighting_of_a_prompt(stack: Stack, account: Account) -> None:
    govern(account, "rules: [{name: a, then: {prompt_cache: true}}]")
    long = {**ASK, "system": "A long instruction that many calls begin with. " * 3000}
    for _ in range(4):
        post(stack, account, long, headers={"exchequer-dry-run": "true"})
    response = post(stack, account, long)
    assert "exchequer-rewrites" not in response.headers


PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 400_000}}


def test_a_picture_that_a_window_takes_away_is_not_a_fortune_saved(stack: Stack, account: Account) -> None:
    govern(account, "rules: [{name: a, then: {history: {above_messages: 4, keep_messages: 2}}}]")
    turns: list[dict[str, Any]] = [
        {"role": ("user", "assistant")[number % 2], "content": "Hello"} for number in range(7)
    ]
    turns[0]["content"] = [PICTURE, {"type": "text", "text": "What is this?"}]
    response = post(stack, account, {**ASK, "model": "claude-sonnet-5", "messages": turns})
    assert response.headers["exchequer-rewrites"].startswith("history")
    (call,) = account.wait_for_calls(1)
    assert 0 < call.decision["savings"]["trimming"] < 100_000
    assert call.baseline_nanos - call.cost_nanos == sum(call.decision["savings"].values())


@pytest.mark.parametrize(
    "deny", ["when: {tiers: [opus]}", "unless: {tiers: [sonnet, haiku]}"], ids=["these", "all but these"]
)
@pytest.mark.parametrize(
    "then",
    [
        "route: {tier: opus}",
        "route: {classify: {simple: {tier: opus}, complex: {tier: opus}, otherwise: {tier: opus}}}",
        "route: {classify: {by: {tier: opus}, simple: {tier: haiku}}}",
        "route: {cascade: {first: {tier: haiku}, then: {tier: opus}, checks: [hedging]}}",
        "fallbacks: [{tier: opus}]",
    ],
    ids=["route", "classify", "classifier", "cascade", "fallback"],
)
def test_a_keys_policy_does_not_send_calls_where_its_tenants_denies_them(
    stack: Stack, account: Account, deny: str, then: str
) -> None:
    govern(account, f"rules: [{{name: no opus, {deny}, then: {{deny: Opus is not for us.}}}}]")
    govern(account, f"rules: [{{name: opus, then: {{{then}}}}}]", scope="key")
    slug = account.tenant.slug
    error = {"error": {"type": "overloaded_error", "times": 1}} if "fallbacks" in then else {}
    post(stack, account, headers=script(id=slug, text="I don't know.", **error))
    (call,) = account.wait_for_calls(1)
    assert "claude-opus-5-5" not in {attempt.requested_model for attempt in account.attempts()}
    assert any("denies claude-opus-5-5" in reason for reason in call.decision["policy"]["not_done"])


def test_a_policy_may_itself_send_calls_where_nobody_may_go_by_asking(stack: Stack, account: Account) -> None:
    govern(
        account,
        "rules: [{name: no opus, when: {tiers: [opus]}, then: {deny: Ask for Sonnet.}}, "
        "{name: hard, when: {keywords: {any: [hello]}}, then: {route: {tier: opus}}}]",
    )
    assert post(stack, account).json()["model"] == "claude-opus-5-5"
    assert post(stack, account, {**ASK, "model": "claude-opus-5-5"}).status_code == 400


def test_a_dry_run_of_what_is_denied_says_so_and_is_no_refused_call(stack: Stack, account: Account) -> None:
    govern(account, "rules: [{name: a, when: {tiers: [sonnet]}, then: {deny: Not with Sonnet.}}]")
    dry = post(stack, account, headers={"exchequer-dry-run": "true"})
    assert (dry.status_code, "Not with Sonnet." in dry.text) == (400, True)
    assert post(stack, account).status_code == 400
    (call,) = account.wait_for_calls(1)
    assert str(call.id) != dry.headers["exchequer-call-id"]
