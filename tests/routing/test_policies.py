"""Policies: drafts, versions that nobody changes, what is live, and who is told."""

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.contrib.auth.models import User
from django.core import mail
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction

from governance.audit.events import Actor
from governance.audit.models import AuditEvent
from governance.routing import policies
from governance.routing.changes import changed_rules
from governance.routing.models import PolicyVersion, RoutingPolicy
from governance.routing.policies import (
    DraftRefused,
    NothingChanged,
    PolicyRefused,
    create_policy,
    find_policy,
    publish,
    roll_back,
    save_draft,
    set_enabled,
    stamp,
)
from tenants.keys import issue_key, revoke_key, rotate_key
from tenants.models import Tenant, TenantVersion
from tenants.scope import platform_scope, tenant_scope
from tests.tenants.makers import make_member, make_team, make_tenant, make_user

CAPPED = """\
rules:
  - name: Small answers
    then: {max_tokens: {cap: 500}}
"""
ROUTED = """\
rules:
  - name: Small answers
    then: {max_tokens: {cap: 300}}
  - name: Questions go to Haiku
    when: {words: {at_most: 80}}
    then: {route: {tier: haiku}}
"""
BAD = """\
rules:
  - name: Small answers
    when: {wrods: {at_most: 80}}
    then: {max_tokens: {cap: 500}}
"""


@pytest.fixture
def alice() -> Tenant:
    return make_tenant("Alice")


@pytest.fixture
def bob() -> Tenant:
    return make_tenant("Bob")


def a_policy(tenant: Tenant, draft: str = CAPPED, **where: str) -> RoutingPolicy:
    return create_policy(tenant, **{"scope": "tenant", "name": "House rules", "draft": draft, **where})


def actions_of(policy: RoutingPolicy) -> list[str]:
    events = AuditEvent.objects.filter(target_type="routing.routingpolicy", target_id=str(policy.pk))
    return list(events.order_by("id").values_list("action", flat=True))


def live_source(policy: RoutingPolicy) -> str | None:
    with platform_scope():
        row = RoutingPolicy.objects.select_related("live").get(pk=policy.pk)
        return row.live.source if row.live else None


def test_a_draft_changes_no_call_until_it_is_published_and_each_step_is_in_the_audit_trail(
    alice: Tenant,
) -> None:
    actor = Actor("alice", user_id=7, ip_address="192.0.2.1")
    policy = create_policy(alice, scope="tenant", name="House rules", draft=CAPPED, actor=actor)
    assert live_source(policy) is None
    first = publish(policy, note="To begin with", actor=actor).policy.live
    assert first is not None
    assert (first.number, first.published_by, first.published_by_user_id) == (1, "alice", 7)
    assert first.document["rules"][0]["then"]["max_tokens"]["cap"] == 500
    save_draft(policy, ROUTED, actor=actor)
    assert live_source(policy) == CAPPED
    publish(policy, actor=actor)
    assert live_source(policy) == ROUTED
    roll_back(policy, 1, actor=actor)
    assert live_source(policy) == CAPPED
    set_enabled(policy, False, actor=actor)
    set_enabled(policy, True, actor=actor)
    assert actions_of(policy) == [
        "policy.create",
        "policy.publish",
        "policy.draft",
        "policy.publish",
        "policy.roll_back",
        "policy.disable",
        "policy.enable",
    ]
    last = AuditEvent.objects.filter(target_id=str(policy.pk), action="policy.roll_back").get()
    assert (last.before, last.after) == ({"live_version": 2}, {"live_version": 1})
    assert (last.actor_name, last.tenant_id) == ("alice", alice.pk)


def test_a_bad_policy_is_refused_with_its_line_and_the_old_version_stays_live(alice: Tenant) -> None:
    policy = publish(a_policy(alice)).policy
    save_draft(policy, BAD)
    with pytest.raises(DraftRefused, match="wrods") as refused:
        publish(policy)
    [problem] = refused.value.problems
    assert problem.line == 3
    assert live_source(policy) == CAPPED
    with platform_scope():
        assert PolicyVersion.objects.filter(policy=policy).count() == 1
    assert actions_of(policy)[-1] == "policy.draft"


@pytest.fixture(scope="module")
def _prices() -> None:
    call_command("load_prices", yes=True, stdout=io.StringIO())


@pytest.mark.usefixtures("_prices")
@pytest.mark.parametrize(
    ("then", "words"),
    [
        ("{route: {model: claude-opus-55}}", "No model is named “claude-opus-55”"),
        ("{route: {model: claude-2.1}}", "retired"),
        ("{route: {tier: haiku}, fallbacks: [{tier: sonnet}, {tier: haiku}]}", "what the rule routes to"),
        ("{fallbacks: [{tier: sonnet}, {model: claude-sonnet-5-5}]}", "twice"),
        ("{route: {cascade: {first: {tier: opus}, then: {tier: opus}}}}", "asks claude-opus-5-5 twice"),
        ("{route: {tier: haiku}, on_exhausted: {tier: opus}}", "no cheaper"),
        ("{max_tokens: {cap: 0}}", "at least 1"),
        ("{max_tokens: {cap: 999999}}", "caps nothing"),
        ("{max_tokens: {cap: 100, set: 200}}", "more than the cap"),
    ],
)
def test_unknown_models_cycles_and_impossible_caps_are_refused_and_the_old_version_stays_live(
    alice: Tenant, then: str, words: str
) -> None:
    policy = publish(a_policy(alice)).policy
    save_draft(policy, f"rules:\n  - name: Wrong\n    then: {then}\n")
    with pytest.raises(DraftRefused, match=words) as refused:
        publish(policy)
    assert {problem.line for problem in refused.value.problems} == {3}
    assert live_source(policy) == CAPPED


def test_a_secret_is_not_published_even_in_a_comment(alice: Tenant) -> None:
    with platform_scope():
        text = issue_key(alice, "bot").text
    for secret in (text, "sk-ant-api03-0123456789abcdef"):
        policy = find_policy(alice, scope="tenant") or a_policy(alice)
        save_draft(policy, f"{CAPPED}# for {secret}\n")
        with pytest.raises(DraftRefused, match="Line 4: This looks like a secret key") as refused:
            publish(policy)
        assert secret not in str(refused.value)


def test_what_is_live_already_makes_no_version(alice: Tenant) -> None:
    policy = publish(a_policy(alice)).policy
    with pytest.raises(NothingChanged, match="Version 1"):
        publish(policy)


def test_a_draft_that_somebody_else_changed_meanwhile_is_neither_saved_nor_published(alice: Tenant) -> None:
    policy = publish(a_policy(alice)).policy
    with platform_scope():
        seen = stamp(RoutingPolicy.objects.get(pk=policy.pk))
    save_draft(policy, ROUTED, seen=seen)
    with pytest.raises(PolicyRefused, match="somebody else"):
        save_draft(policy, CAPPED, seen=seen)
    with pytest.raises(PolicyRefused, match="somebody else"):
        publish(policy, seen=seen)
    assert live_source(policy) == CAPPED


def test_of_many_who_publish_at_once_one_does_and_the_others_are_told(alice: Tenant) -> None:
    """Without the lock each would count the same newest version: the twin below shows that race."""
    policy = a_policy(alice)
    with platform_scope():
        seen = stamp(RoutingPolicy.objects.get(pk=policy.pk))
    outcomes = at_once(8, lambda: publish(policy, seen=seen))
    assert len([outcome for outcome in outcomes if outcome is None]) == 1
    assert {type(outcome) for outcome in outcomes if outcome is not None} == {PolicyRefused}
    with platform_scope():
        assert PolicyVersion.objects.filter(policy=policy).count() == 1


def test_the_race_of_publishers_is_there_where_nothing_is_locked(
    alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = a_policy(alice)
    together = threading.Barrier(4)

    def unlocked(policy: RoutingPolicy, seen: str) -> RoutingPolicy:
        row = RoutingPolicy.objects.get(pk=policy.pk)
        together.wait(10)
        return row

    monkeypatch.setattr(policies, "_lock", unlocked)
    outcomes = at_once(4, lambda: publish(policy))
    assert any(isinstance(outcome, Exception) for outcome in outcomes)  # who came late reads the next number
    assert not any(isinstance(outcome, PolicyRefused) for outcome in outcomes)


def at_once(count: int, work: Callable[[], Any]) -> list[Exception | None]:
    """What each of so many threads ended with: None where it succeeded."""
    ended: list[Exception | None] = []

    def one() -> None:
        try:
            work()
        except Exception as error:
            ended.append(error)
        else:
            ended.append(None)
        finally:
            connection.close()

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ended


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE routing_policyversion SET source = 'rules: []' WHERE policy_id = %s",
        "DELETE FROM routing_policyversion WHERE policy_id = %s",
    ],
)
def test_a_published_version_is_never_changed_not_even_by_the_owner(
    alice: Tenant, owner_connection: psycopg.Connection[Any], statement: str
) -> None:
    policy = publish(a_policy(alice)).policy
    with pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
        owner_connection.execute(statement, [policy.pk])
    with platform_scope(), pytest.raises(Exception, match="permission denied"), transaction.atomic():
        PolicyVersion.objects.filter(policy=policy).update(source="rules: []")
    assert live_source(policy) == CAPPED


def test_a_policy_is_live_in_its_own_versions_only(alice: Tenant, bob: Tenant) -> None:
    policy, bobs = publish(a_policy(alice)).policy, publish(a_policy(bob, ROUTED)).policy
    with platform_scope(), pytest.raises(IntegrityError, match="own_version"), transaction.atomic():
        RoutingPolicy.objects.filter(pk=policy.pk).update(live=bobs.live)
    with pytest.raises(PolicyRefused, match="no version 2"):
        roll_back(policy, 2)
    with pytest.raises(PolicyRefused, match="is live"):
        roll_back(policy, 1)


def test_there_is_one_policy_a_scope_and_a_key_keeps_its_own_when_it_is_rotated(alice: Tenant) -> None:
    with platform_scope():
        key = issue_key(alice, "bot").key
        newer = rotate_key(key, 0).key
    policy = a_policy(alice, scope="key", ref=str(newer.pk))
    assert find_policy(alice, scope="key", ref=str(key.pk)) == policy
    with pytest.raises(ValidationError, match="change that one"):
        a_policy(alice, scope="key", ref=str(key.pk))


def test_a_policy_is_made_for_ones_own_teams_and_keys_only(alice: Tenant, bob: Tenant) -> None:
    team = make_team(bob)
    with platform_scope():
        key = issue_key(bob, "bot").key
    for scope, ref in (("team", str(team.pk)), ("key", str(key.pk)), ("key", "x")):
        with pytest.raises(PolicyRefused, match=f"has no {scope}"):
            a_policy(alice, scope=scope, ref=ref)
    bobs = publish(a_policy(bob)).policy
    with tenant_scope(alice.pk):
        assert not RoutingPolicy.objects.exists()
        assert not PolicyVersion.objects.filter(policy_id=bobs.pk).exists()


def test_each_change_of_what_is_live_moves_the_tenants_version_so_that_workers_notice(alice: Tenant) -> None:
    policy = a_policy(alice)
    changes = [
        lambda: publish(policy),
        lambda: set_enabled(policy, False),
        lambda: save_draft(policy, ROUTED) and publish(policy),
        lambda: roll_back(policy, 1),
    ]
    for change in changes:
        before = TenantVersion.objects.get(pk=alice.pk).version
        change()
        assert TenantVersion.objects.get(pk=alice.pk).version > before


# --- Telling key holders ----------------------------------------------------------------------------


def with_address(user: User, address: str) -> User:
    user.email = f"{address}-{user.pk}@example.com"
    user.save()
    return user


def test_key_holders_are_told_what_changed_in_words_and_by_line(alice: Tenant, bob: Tenant) -> None:
    search, other = make_team(alice, "Search"), make_team(alice, "Other")
    owner = with_address(make_member(alice, "owner"), "owner")
    lead = with_address(make_member(alice, "lead", team=search), "lead")
    issuer = with_address(make_member(alice, "viewer", team=search), "issuer")
    gone = with_address(make_user("gone"), "gone")
    with_address(make_member(alice, "lead", team=other), "other-lead")
    with_address(make_member(alice, "viewer"), "viewer")
    with_address(make_member(bob, "owner"), "bob")
    without = make_member(alice, "admin")
    with platform_scope():
        issue_key(alice, "search bot", team=search, created_by=issuer)
        issue_key(alice, "orphan", team=search, created_by=gone)
        revoke_key(issue_key(alice, "old bot", team=search, created_by=issuer).key, "lost")
    policy = a_policy(alice, scope="team", ref=str(search.pk))
    publish(policy)
    mail.outbox.clear()
    save_draft(policy, ROUTED)
    outcome = publish(policy, note="Questions are simple", actor=Actor("Oona", user_id=owner.pk))
    assert sorted(outcome.told.sent) == sorted([lead.email, issuer.email])
    assert outcome.told.without_address == [without.username]
    texts = {message.to[0]: message.body for message in mail.outbox}
    text = texts[issuer.email]
    for words in (
        "Oona has published version 2 of the policy “House rules”. It holds for the keys of the team Search",
        "- search bot (exq_",
        "- New rule: Questions go to Haiku",
        "- Changed: Small answers: then.max_tokens.cap 500 → 300",
        "Note of version 2: Questions are simple",
        "-    then: {max_tokens: {cap: 500}}",
        "+    then: {route: {tier: haiku}}",
        f"/admin/routing/routingpolicy/{policy.pk}/change/",
    ):
        assert words in text
    assert "old bot" not in text
    assert "you lead the team Search" in texts[lead.email]
    roll_back(policy, 1, actor=Actor("Oona"))
    assert "version 1 of the policy “House rules” back in force, instead of version 2" in mail.outbox[-1].body
    assert "Gone: Questions go to Haiku" in mail.outbox[-1].body
    set_enabled(policy, False, actor=Actor("Oona"))
    assert "switched off the policy" in mail.outbox[-1].body
    mail.outbox.clear()
    publish(policy)  # the draft is still the second version's
    assert mail.outbox == []


def test_mail_that_fails_never_fails_the_publish_and_is_said(alice: Tenant, settings: Any) -> None:
    owner = with_address(make_member(alice, "owner"), "owner")
    nowhere = {"host": "127.0.0.1", "port": 9, "timeout": 1}
    settings.MAILERS = {
        "default": {"BACKEND": "django.core.mail.backends.smtp.EmailBackend", "OPTIONS": nowhere}
    }
    outcome = publish(a_policy(alice))
    assert outcome.told.failed == [owner.email]
    assert "refused" in str(outcome.told)
    assert live_source(outcome.policy) == CAPPED


def test_nobody_is_told_of_what_is_not_committed(alice: Tenant) -> None:
    with_address(make_member(alice, "owner"), "owner")
    policy = a_policy(alice)
    mail.outbox.clear()

    def publish_and_fail() -> None:
        with transaction.atomic():
            publish(policy)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        publish_and_fail()
    assert mail.outbox == []
    assert live_source(policy) is None


def test_a_new_order_of_rules_and_another_model_for_a_tier_are_changes_in_words() -> None:
    one, two = {"name": "One", "then": {"deny": "No."}}, {"name": "Two", "then": {"deny": "No."}}
    before = {"rules": [one, two], "tiers": {"opus": "claude-opus-4-8"}, "sticky": True}
    after = {"rules": [two, one], "tiers": {}, "sticky": False}
    assert changed_rules(before, before) == []
    words = changed_rules(before, after)
    assert [word.split(",")[0] for word in words] == [
        "The rules stand in another order",
        "The tier opus means the usual model now",
        "A conversation may change its model on the way",
    ]


def test_what_changed_in_a_rule_is_said_by_field_shortly() -> None:
    old = {"name": "R", "when": {"tiers": ["opus"], "words": {"at_most": 80}}, "then": {"deny": "x" * 100}}
    new = {"name": "R", "when": {"tiers": ["opus", "sonnet"]}, "then": {"deny": "No."}, "shadow": True}
    [word] = changed_rules({"rules": [old]}, {"rules": [new]})
    assert word == (
        "Changed: R: when.tiers opus → opus, sonnet; when.words.at_most is gone;"
        f" then.deny {'x' * 59}… → No.; shadow true is new"
    )


# --- The commands -----------------------------------------------------------------------------------


def run(command: str, *arguments: str) -> str:
    output = io.StringIO()
    call_command(command, *arguments, stdout=output, stderr=output)
    return output.getvalue()


def test_the_commands_publish_a_file_and_show_it(alice: Tenant, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(CAPPED)
    where = ["--tenant", alice.slug]
    assert "1 rules, nothing wrong" in run("publish_policy", *where, "--file", str(file), "--check")
    assert "version 1 of “Policy of the tenant” is live" in run("publish_policy", *where, "--file", str(file))
    assert "says this already" in run("publish_policy", *where, "--file", str(file))
    file.write_text(ROUTED)
    run("publish_policy", *where, "--file", str(file), "--note", "Cheaper", "--name", "House rules")
    assert run("show_policy", *where) == ROUTED
    assert run("show_policy", *where, "--number", "1") == CAPPED
    listed = run("show_policy", *where, "--versions").splitlines()
    assert listed[0].startswith("*    2")
    assert "manage.py publish_policy  Cheaper" in listed[0]
    policy = find_policy(alice, scope="tenant")
    assert policy is not None
    save_draft(policy, BAD)
    file.write_text(CAPPED)
    with pytest.raises(CommandError, match="is editing the draft"):
        run("publish_policy", *where, "--file", str(file))
    assert run("show_policy", *where, "--draft") == BAD
    run("publish_policy", *where, "--file", str(file), "--replace-draft")
    assert live_source(policy) == CAPPED


def test_a_bad_file_is_refused_with_file_and_line(alice: Tenant, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(BAD)
    with pytest.raises(CommandError, match=r"policy\.yaml:3: .*wrods"):
        run("publish_policy", "--tenant", alice.slug, "--file", str(file))
    assert find_policy(alice, scope="tenant") is None
    for arguments, word in {
        ("--tenant", alice.slug, "--file", str(tmp_path / "none")): "cannot be read",
        ("--file", str(file)): "Give --tenant",
        ("--tenant", "nobody", "--file", str(file)): "nobody",
    }.items():
        with pytest.raises(CommandError, match=word):
            run("publish_policy", *arguments)
    with pytest.raises(CommandError, match="has no policy"):
        run("show_policy", "--tenant", alice.slug)
