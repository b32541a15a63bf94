"""What the preview of a policy says of a pasted request is what becomes of the call: against dry runs."""

import json
from textwrap import dedent
from typing import Any

import pytest
from django.db import connection

from governance.core.clock import utcnow
from governance.gateway.pasted import Outcome, Terms, pasted_facts, pasted_outcome
from governance.pricing.loading import load_book
from governance.pricing.operator_rules import allow_name, refuse_name
from governance.pricing.queries import BROKEN_BOUNDS, REFUSED_NAMES
from governance.routing.models import RoutingPolicy
from governance.routing.reading import read_policy
from governance.routing.trial import router_with
from tenants.scope import platform_scope
from tests.gateway.asking import ASK, post
from tests.gateway.policies import govern
from tests.harness import Account, Stack, make_tenant, wait_until

OPUS, SONNET, HAIKU = "claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5"
FABLE = "claude-fable-5-2"
DRY = {"exchequer-dry-run": "true"}
NO_FABLE = "rules: [{name: No Fable, when: {tiers: [fable]}, then: {deny: Too dear.}}]"
FORCED: dict[str, Any] = {
    "tools": [{"name": "f", "input_schema": {"type": "object"}}],
    "tool_choice": {"type": "any"},
}
COMPUTER = {
    "tools": [
        {"type": "computer_20250124", "name": "computer", "display_width_px": 9, "display_height_px": 9}
    ]
}
POLICIES = {
    name: f"rules: [{{name: a, then: {{{then}}}}}]"
    for name, then in {
        "model": "route: {tier: haiku}, max_tokens: {cap: 20}, cache: {ttl_seconds: 9}",
        "cascade": "route: {cascade: {first: {tier: haiku}, then: {tier: opus}}}",
        "classify": "route: {classify: {simple: {tier: haiku}, otherwise: {tier: opus}}}",
        "others": "fallbacks: [{tier: opus}, {tier: sonnet}], on_exhausted: {tier: haiku}",
        "prompt cache": "prompt_cache: true, concise: true",
        "answer": "answer: {text: Closed.}",
        "up": "route: {tier: fable}, fallbacks: [{tier: opus}, {tier: haiku}]",
    }.items()
}
BODIES: dict[str, dict[str, Any]] = {
    "plain": ASK,
    "stream": {**ASK, "model": OPUS, "stream": True},
    "forced": {**ASK, "model": "claude-opus-5", **FORCED},
    "without text": {**ASK, "messages": [{"role": "user", "content": " "}]},
    "container": {**ASK, "container": "container_1"},
}


def previewed(account: Account, text: str, ask: dict[str, Any], *, scope: str = "tenant") -> Outcome:
    """What the console says with that key."""
    body, key = json.dumps(ask).encode(), account.issued.key
    with platform_scope(), connection.cursor() as cursor:
        policy = RoutingPolicy.objects.get(tenant=account.tenant, scope=scope)
        router = router_with(policy, read_policy(dedent(text)).policy, key)
        cursor.execute(REFUSED_NAMES)
        refused = cursor.fetchall()
        cursor.execute(BROKEN_BOUNDS)
        terms = Terms(
            book=load_book(connection),
            allowed_models=key.allowed_models,
            refused=refused,
            broken=cursor.fetchall(),
        )
    facts = pasted_facts(
        body,
        tags={},
        key_public_id=key.public_id,
        team_id=None,
        at=utcnow(),
        latency="interactive",
        budget_used_percent=0,
    )
    return pasted_outcome(body, router, router.route(facts), facts, terms)


def agrees(stack: Stack, account: Account, text: str, ask: dict[str, Any], scope: str = "tenant") -> Outcome:
    """The preview, which says what a dry run of the very call says."""
    seen = previewed(account, text, ask, scope=scope)
    answer = post(stack, account, ask, headers=DRY)
    report = answer.json()
    if seen.refused is not None:
        assert (answer.status_code, seen.refused.rstrip(".") in report["error"]["message"]) == (403, True)
        return seen
    assert answer.status_code == 200, answer.text
    assert report["model"]["sent"] in (seen.model, None)
    said = report["policy"]
    assert tuple(said["rewrites"]) == seen.rewrites
    assert tuple(said["not_done"]) == seen.not_done
    assert tuple(said["depends_on"]) == seen.depends_on
    return seen


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_preview_says_what_a_dry_run_says(stack: Stack, name: str) -> None:
    account = make_tenant(unbounded_allowed=True)
    govern(account, POLICIES[name])
    for ask in BODIES.values():
        agrees(stack, account, POLICIES[name], ask)


def test_a_preview_leaves_out_the_models_that_a_less_specific_policy_denies(
    stack: Stack, account: Account
) -> None:
    govern(account, NO_FABLE)
    own = "rules: [{name: Up, then: {route: {tier: fable}, on_exhausted: {tier: haiku}}}]"
    govern(account, own, scope="key")
    seen = agrees(stack, account, own, ASK, "key")
    assert (seen.model, seen.rewrites) == (SONNET, ())
    assert seen.not_done == (f"model: a less specific policy denies {FABLE}.",)
    assert seen.depends_on == (f"on_exhausted: {HAIKU}, where the worst case does not fit in a budget.",)


def test_a_preview_of_a_cascade_begins_with_its_first_model_where_the_request_fits_it(
    stack: Stack, account: Account
) -> None:
    govern(account, POLICIES["cascade"])
    seen = agrees(stack, account, POLICIES["cascade"], ASK)
    assert seen.model == HAIKU
    assert seen.depends_on == (
        f"route: {OPUS} answers where {HAIKU}'s answer fails a check (refusal, truncation).",
    )
    stream = agrees(stack, account, POLICIES["cascade"], {**ASK, "model": OPUS, "stream": True})
    assert stream.model == OPUS
    assert "no cascade" in stream.depends_on[0]
    kept = agrees(stack, account, POLICIES["cascade"], {**ASK, "model": OPUS, **COMPUTER})
    assert (kept.model, kept.depends_on) == (OPUS, ())
    assert kept.not_done[0].startswith("model: ")


def test_a_preview_minds_the_models_of_its_key_and_those_that_the_operator_refuses(stack: Stack) -> None:
    bound, free = make_tenant(allowed_models=[SONNET]), make_tenant()
    text = POLICIES["model"]
    for account in (bound, free):
        govern(account, text)
    seen = agrees(stack, bound, text, ASK)
    assert (seen.model, seen.refused) == (SONNET, None)
    assert seen.not_done == (f"model: {HAIKU} may not be used (model_not_allowed).",)
    asked = agrees(stack, bound, text, {**ASK, "model": OPUS})
    assert asked.refused is not None
    assert "may not use" in asked.refused
    row = refuse_name("model", HAIKU, "its price is not known")
    try:
        refused = previewed(free, text, ASK)
        wait_until(lambda: post(stack, free, headers=DRY).json()["policy"]["not_done"] != [], 3)
        assert agrees(stack, free, text, ASK) == refused
        assert refused.not_done == (f"model: {HAIKU} may not be used (name_refused).",)
        assert agrees(stack, free, text, {**ASK, "model": HAIKU}).refused is not None
    finally:
        allow_name(row)


def test_a_preview_of_a_later_turn_says_that_it_does_not_know_its_conversations_model(
    account: Account,
) -> None:
    govern(account, POLICIES["model"])
    turns = [*ASK["messages"], {"role": "assistant", "content": "Hello."}, *ASK["messages"]]
    later = previewed(account, POLICIES["model"], {**ASK, "messages": turns})
    assert later.depends_on[-1] == "route: a conversation stays on the model that answered it last."
    assert "stays" not in " ".join(previewed(account, POLICIES["model"], ASK).depends_on)
