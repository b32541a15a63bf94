"""A policy names what its own tenant has; what cannot be is refused, and the old version stays live."""

import io

import pytest
from django.core.management import call_command

from governance.routing.models import RoutingPolicy
from governance.routing.naming import known_of, known_to
from governance.routing.policies import DraftRefused, create_policy, publish, save_draft
from tenants.keys import issue_key
from tenants.scope import platform_scope
from tests.tenants.makers import make_team, make_tenant

GOOD = "rules: [{name: a, then: {max_tokens: {cap: 500}}}]\n"


@pytest.fixture(autouse=True)
def prices() -> None:
    call_command("load_prices", yes=True, stdout=io.StringIO())


def refused(policy: RoutingPolicy, draft: str) -> str:
    """The sentence; the live version is what it was."""
    save_draft(policy, draft)
    with pytest.raises(DraftRefused) as caught:
        publish(policy)
    with platform_scope():
        live = RoutingPolicy.objects.select_related("live").get(pk=policy.pk).live
    assert live is not None
    assert live.source == GOOD
    return str(caught.value)


def test_bad_policies_are_refused_with_a_sentence_and_the_old_version_stays_live() -> None:
    policy = publish(create_policy(make_tenant("Alice"), scope="tenant", name="House", draft=GOOD)).policy
    rule = "rules:\n  - {name: a, then: {%s}}\n"
    unknown = refused(policy, rule % "route: {model: claude-opus-5-6}")
    assert unknown == "Line 2: No model is named “claude-opus-5-6”. Did you mean claude-opus-5-5?"
    cyclic = refused(policy, rule % "route: {tier: haiku}, fallbacks: [{model: claude-haiku-5-5}]")
    assert cyclic.startswith("Line 2: claude-haiku-5-5 is what the rule routes to")
    dear = refused(policy, rule % "route: {cascade: {first: {tier: opus}, then: {tier: sonnet}}}")
    assert dear.startswith("Line 2: claude-sonnet-5-5 is no dearer than claude-opus-5-5")
    impossible = refused(policy, rule % "max_tokens: {cap: 999999}")
    assert impossible.startswith("Line 2: No model writes more than 128,000 tokens")


def test_two_tenants_never_name_each_others_keys_and_teams() -> None:
    alice, bob = make_tenant("Alice"), make_tenant("Bob")
    team, other_team = make_team(alice, "Research"), make_team(bob, "Sales")
    with platform_scope():
        key, other_key = issue_key(alice, "a").key, issue_key(bob, "b").key
    known = known_to(alice.pk)
    assert known.keys is not None
    assert key.public_id in known.keys
    assert other_key.public_id not in known.keys
    assert known.teams == {team.slug, str(team.pk)}
    assert other_team.slug not in known.teams
    policy = publish(create_policy(alice, scope="tenant", name="House", draft=GOOD)).policy
    theirs = (
        f"rules:\n  - name: a\n    when: {{keys: [{other_key.public_id}]}}\n    then: {{concise: true}}\n"
    )
    assert "No key has the public id" in refused(policy, theirs)


def test_a_tier_means_what_the_less_specific_live_policies_say() -> None:
    alice = make_tenant("Alice")
    team = make_team(alice, "Research")
    with platform_scope():
        key = issue_key(alice, "a", team=team).key
    rules = GOOD.strip()
    house = "tiers: {opus: claude-opus-5, haiku: claude-haiku-4-5}\n" + rules
    publish(create_policy(alice, scope="tenant", name="House", draft=house))
    ours = "tiers: {opus: claude-opus-4-8}\n" + rules
    team_policy = publish(create_policy(alice, scope="team", ref=str(team.pk), name="T", draft=ours)).policy
    key_policy = create_policy(alice, scope="key", ref=str(key.pk), name="K")
    assert known_of(team_policy).tiers == {"opus": "claude-opus-5", "haiku": "claude-haiku-4-5"}
    assert known_of(key_policy).tiers == {"opus": "claude-opus-4-8", "haiku": "claude-haiku-4-5"}
    assert known_of(key_policy).model("claude-haiku-4-5") is not None
