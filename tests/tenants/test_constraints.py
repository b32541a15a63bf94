"""The database keeps the rules by itself: each of these bad rows comes by raw SQL."""

import json

import pytest
from django.db import DatabaseError, IntegrityError, connection, connections, transaction
from django.db.migrations.executor import MigrationExecutor

from tenants.keys import issue_key
from tenants.models import Membership, Tenant
from tenants.scope import tenant_scope
from tests.tenants.makers import make_member, make_team, make_user

BAD_TENANTS = {
    "time_zone": ["Mars/Olympus", "", "EST5EDT4,M3", "+02:00", "UTC'; --"],
    "status": ["gone", "", "ACTIVE"],
    "name": ["", "a\tb", "bell\u0007", "c1\u0085"],
    "slug": ["", "a\nb"],
    "status_reason": ["escape\u001b[0m"],
}
BAD_KEYS = {
    "public_id": ["short", "exq_0123", "né345678", "a b c d "],
    "digest": [b"", b"x" * 31, b"x" * 33],
    "max_output_tokens": [0, -1],
    "hold_wait_seconds": [-1, 301],
    "clamp_floor_tokens": [0, -1],
    "burn_nanos_per_10_minutes_max": [0, -1],
    "revoked_reason": ["revoked without a time"],
    "name": ["", "nul-like\u0001"],
    "default_tags": [
        "[]",
        '"text"',
        "null",
        '{"a": 1}',
        '{"a": null}',
        '{"": "x"}',
        '{"a": "line\\nbreak"}',
        json.dumps({"k" * 65: "x"}),
        json.dumps({"k": "v" * 257}),
        json.dumps({str(n): "x" for n in range(21)}),
    ],
    "required_tags": [["t"] * 21],
    "allowed_models": [["m"] * 101],
}


@pytest.mark.parametrize(("column", "value"), [(c, v) for c, values in BAD_TENANTS.items() for v in values])
def test_the_database_refuses_a_bad_tenant(alice: Tenant, column: str, value: object) -> None:
    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"UPDATE tenants_tenant SET {column} = %s WHERE id = %s", [value, alice.pk])


@pytest.mark.parametrize(("column", "value"), [(c, v) for c, values in BAD_KEYS.items() for v in values])
def test_the_database_refuses_a_bad_key(alice: Tenant, column: str, value: object) -> None:
    with tenant_scope(alice.pk):
        key = issue_key(alice, "production").key
    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"UPDATE tenants_apikey SET {column} = %s WHERE id = %s", [value, key.pk])


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+5"])
def test_the_database_knows_every_kind_of_time_zone_name(alice: Tenant, zone: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tenants_tenant SET time_zone = %s WHERE id = %s", [zone, alice.pk])
    assert Tenant._base_manager.get(pk=alice.pk).time_zone == zone


@pytest.mark.parametrize("alias", ["default", "owner"])
@pytest.mark.parametrize(
    "statement", ["DELETE FROM tenants_tenant WHERE id = %s", "TRUNCATE tenants_tenant CASCADE"]
)
def test_nobody_deletes_a_tenant(alice: Tenant, alias: str, statement: str) -> None:
    parameters = [alice.pk] if "%s" in statement else None
    with pytest.raises(DatabaseError), transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        cursor.execute(statement, parameters)
    assert Tenant._base_manager.filter(pk=alice.pk).exists()


@pytest.mark.parametrize(
    ("role", "in_team", "allowed"),
    [
        ("owner", False, True),
        ("admin", False, True),
        ("viewer", False, True),
        ("lead", False, False),
        ("lead", True, True),
        ("viewer", True, True),
        ("owner", True, False),
        ("admin", True, False),
        ("root", False, False),
    ],
)
def test_a_role_fits_its_reach(alice: Tenant, role: str, in_team: bool, allowed: bool) -> None:
    team, user = make_team(alice) if in_team else None, make_user()
    row = Membership(user=user, tenant=alice, team=team, role=role)
    if allowed:
        row.save()
    else:
        with pytest.raises(IntegrityError, match="membership_role_fits_its_reach"), transaction.atomic():
            row.save()


def test_a_member_of_a_team_is_a_member_of_that_teams_tenant(alice: Tenant, bob: Tenant) -> None:
    foreign = make_team(bob)
    with pytest.raises(IntegrityError, match="membership_team_of_its_tenant"), transaction.atomic():
        Membership(user=make_user(), tenant=alice, team=foreign, role="lead").save()


def test_a_person_is_once_in_a_tenant_and_once_in_a_team(alice: Tenant) -> None:
    team = make_team(alice)
    user = make_member(alice, "viewer")
    Membership(user=user, tenant=alice, team=team, role="lead").save()
    for again in (
        Membership(user=user, tenant=alice, role="admin"),
        Membership(user=user, tenant=alice, team=team, role="viewer"),
    ):
        with pytest.raises(IntegrityError, match="membership_once_per"), transaction.atomic():
            again.save()


@pytest.mark.parametrize("app", ["tenants", "audit"])
def test_every_migration_can_be_undone(app: str) -> None:
    migrations = MigrationExecutor(connections["owner"]).loader.disk_migrations
    operations = [op for (label, _), one in migrations.items() if label == app for op in one.operations]
    assert operations
    assert all(operation.reversible for operation in operations)
