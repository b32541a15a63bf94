"""The commands: what they print, what they refuse, and that no secret is taken from the command line."""

import io
import json
import secrets

import pytest
from django.core.management import CommandError, call_command

from governance.audit.models import AuditEvent
from governance.budgets.models import Budget
from tenants.keys import KeyStateError, issue_key, key_matches, move_key, parse_key, revoke_key, rotate_key
from tenants.models import ApiKey, Pause, ProviderCredential, Tenant
from tenants.scope import platform_scope
from tests.tenants.makers import make_team


def run(*arguments: str) -> str:
    output = io.StringIO()
    call_command(*arguments, stdout=output)
    return output.getvalue().strip()


def issued(*arguments: str) -> tuple[ApiKey, str]:
    printed = json.loads(run(*arguments, "--json"))
    assert set(printed) == {"id", "key"}
    with platform_scope():
        return ApiKey.objects.get(public_id=printed["id"]), printed["key"]


def test_create_tenant_gives_it_a_hard_monthly_budget_in_its_own_zone() -> None:
    name = f"Acme {secrets.token_hex(6)}"
    run("create_tenant", name, "--monthly-limit-usd", "12.50", "--time-zone", "Europe/Berlin")
    with platform_scope():
        budget = Budget.objects.get(tenant__name=name)
    assert (budget.scope, budget.period, budget.enforcement) == ("tenant", "month", "hard")
    assert (budget.limit_nanos, budget.time_zone) == (12_500_000_000, "Europe/Berlin")


@pytest.mark.parametrize(("limit", "zone"), [("-1", "UTC"), ("lots", "UTC"), ("5", "Mars/Olympus")])
def test_a_tenant_that_cannot_have_its_budget_is_not_created(limit: str, zone: str) -> None:
    name = f"Acme {secrets.token_hex(6)}"
    with pytest.raises(CommandError):
        run("create_tenant", name, f"--monthly-limit-usd={limit}", "--time-zone", zone)
    assert not Tenant._base_manager.filter(name=name).exists()


def test_issue_key_prints_an_id_and_a_key_that_works(alice: Tenant) -> None:
    team = make_team(alice, "Search")
    arguments = [
        "issue_key",
        "--tenant",
        alice.slug,
        "--name",
        "ci",
        "--team",
        "search",
        "--expires-days",
        "2",
    ]
    key, text = issued(*arguments)
    assert parse_key(text) == key.public_id
    assert key_matches(text, bytes(key.digest), key.pepper_id)
    assert (key.tenant_id, key.team_id, key.name) == (alice.pk, team.pk, "ci")
    assert 1 < (key.expires_at - key.created_at).total_seconds() / 86_400 <= 2


def test_rotate_and_revoke_follow_a_key_by_its_id(alice: Tenant) -> None:
    key, _ = issued("issue_key", "--tenant", alice.name, "--name", "ci")
    successor, _ = issued("rotate_key", key.public_id, "--overlap-seconds", "60")
    key.refresh_from_db()
    assert key.replaced_by_id == successor.pk
    assert "has been revoked" in run("revoke_key", f"exq_{successor.public_id}", "--reason", "leaked")
    successor.refresh_from_db()
    assert successor.revoked_reason == "leaked"
    actors = set(AuditEvent.objects.filter(tenant_id=alice.pk).values_list("actor_name", flat=True))
    assert {"manage.py issue_key", "manage.py rotate_key", "manage.py revoke_key"} <= actors


def test_add_credential_reads_standard_input(alice: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("sk-ant-0123456789abcdef-last\n"))
    printed = run("add_credential", "--tenant", alice.slug, "--label", "main")
    assert "sk-ant-0" not in printed
    with platform_scope():
        assert ProviderCredential.objects.get(tenant=alice).hint == "last"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["issue_key", "--tenant", "nobody-has-this-name", "--name", "x"], "No tenant has the slug or name"),
        (["revoke_key", "00000000"], "No key has the id"),
        (["rotate_key", "00000000"], "No key has the id"),
    ],
)
def test_a_wrong_name_is_one_clear_sentence(arguments: list[str], sentence: str) -> None:
    with pytest.raises(CommandError, match=sentence):
        run(*arguments)


def test_pause_and_resume_say_what_they_did_and_what_is_wrong(alice: Tenant, bob: Tenant) -> None:
    make_team(alice, "Search")
    with platform_scope():
        issued_key = issue_key(alice, "ci").key
    assert "pause of team" in run("pause", "--tenant", alice.slug, "--team", "search", "--reason", "Loop.")
    assert "pause of tag a=b" in run("pause", "--tenant", alice.slug, "--tag", "a=b", "--reason", "Loop.")
    assert "pause of key" in run("pause", "--key", issued_key.public_id, "--reason", "Stolen.")
    with platform_scope():
        assert Pause.objects.filter(tenant=alice, ended_at=None).count() == 3
    assert "has ended" in run("resume", "--key", issued_key.public_id)
    wrong = {
        "no pause there": ["resume", "--key", issued_key.public_id],
        "paused already": ["pause", "--tenant", alice.slug, "--tag", "a=b", "--reason", "Again."],
        "Give --tenant": ["pause", "--team", "search", "--reason", "x"],
        "not one of": ["pause", "--tenant", bob.slug, "--key", issued_key.public_id, "--reason", "x"],
        "name=value": ["pause", "--tenant", alice.slug, "--tag", "a", "--reason", "x"],
        "cannot be blank": ["pause", "--tenant", alice.slug, "--reason", ""],
    }
    for sentence, arguments in wrong.items():
        with pytest.raises(CommandError, match=sentence):
            run(*arguments)


def test_move_key_takes_its_rotations_along_and_is_in_the_audit_trail(alice: Tenant, bob: Tenant) -> None:
    search, elsewhere = make_team(alice, "Search"), make_team(bob, "Elsewhere")
    with platform_scope():
        old = issue_key(alice, "bot").key
        new = rotate_key(old, 600).key
    said = run("move_key", new.public_id, "--team", "Search", "--reason", "reorganised")
    assert "2 keys, its rotations included, moved to Search" in said
    with platform_scope():
        assert {key.team_id for key in ApiKey.objects.filter(tenant=alice)} == {search.pk}
    events = AuditEvent.objects.filter(tenant_id=alice.pk, action="key.move")
    assert [event.after for event in events] == [{"team": search.pk, "reason": "reorganised"}] * 2
    with pytest.raises(CommandError, match="in Search already"):
        run("move_key", new.public_id, "--team", "Search", "--reason", "again")
    with pytest.raises(CommandError, match="has no team"):
        run("move_key", new.public_id, "--team", elsewhere.slug, "--reason", "theirs")
    run("move_key", new.public_id, "--no-team", "--reason", "shared by all")
    with platform_scope():
        revoke_key(new, "lost")
    with pytest.raises(CommandError, match="is revoked"):
        run("move_key", new.public_id, "--team", "Search", "--reason", "too late")


def test_a_key_never_moves_to_another_tenant(alice: Tenant, bob: Tenant) -> None:
    with platform_scope():
        key = issue_key(alice, "bot").key
        with pytest.raises(KeyStateError, match="own tenant"):
            move_key(key, make_team(bob), reason="stolen")
