"""The audit trail: written with each change, never changed, never with a secret in it."""

import uuid

import pytest
from django.db import DatabaseError, connections, transaction

from governance.audit import events
from governance.audit.models import AuditEvent
from tenants import credentials, keys
from tenants.scope import platform_scope
from tenants.tenants import change_tenant, create_team
from tests.tenants.makers import make_tenant

STATEMENTS = [
    "UPDATE audit_auditevent SET action = 'nothing' WHERE id = %s",
    "DELETE FROM audit_auditevent WHERE id = %s",
    "TRUNCATE audit_auditevent",
]


@pytest.mark.parametrize("alias", ["default", "owner"])
@pytest.mark.parametrize("statement", STATEMENTS)
def test_an_event_is_never_changed_not_even_by_the_owner(alias: str, statement: str) -> None:
    tenant = make_tenant()
    event = AuditEvent.objects.get(tenant_id=tenant.pk)
    parameters = [event.pk] if "%s" in statement else None
    with pytest.raises(DatabaseError), transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        cursor.execute(statement, parameters)
    assert AuditEvent.objects.get(pk=event.pk).action == "tenant.create"


def test_each_change_of_a_tenants_rules_leaves_an_event_that_names_the_actor() -> None:
    actor = events.Actor("alice", user_id=7, ip_address="192.0.2.1")
    with platform_scope():
        tenant = make_tenant()
        create_team(tenant, "Search", actor=actor)
        issued = keys.issue_key(tenant, "production", actor=actor)
        keys.revoke_key(keys.rotate_key(issued.key, 60, actor=actor).key, "lost", actor=actor)
        credential = credentials.add_credential(tenant, "main", "sk-ant-0123456789abcdef", actor=actor)
        credentials.disable_credential(credential, actor=actor)
        change_tenant(tenant, status="paused", status_reason="unpaid", actor=actor)
    rows = AuditEvent.objects.filter(tenant_id=tenant.pk).order_by("id")
    assert [row.action for row in rows] == [
        "tenant.create",
        "team.create",
        "key.issue",
        "key.rotate",
        "key.issue",
        "key.revoke",
        "credential.add",
        "credential.disable",
        "tenant.change",
    ]
    for row in rows[1:]:
        assert (row.actor_name, row.actor_user_id, row.ip_address) == ("alice", 7, "192.0.2.1")


def test_an_event_keeps_only_what_changed() -> None:
    tenant = make_tenant()
    event = events.record(
        None, tenant.pk, "tenant.change", tenant, {"name": "a", "zone": "UTC"}, {"name": "b", "zone": "UTC"}
    )
    assert (event.before, event.after) == ({"name": "a"}, {"name": "b"})
    assert event.actor_name == "system"


def test_an_event_and_its_change_commit_or_vanish_together() -> None:
    tenant = make_tenant()
    with platform_scope(), transaction.atomic():
        keys.issue_key(tenant, "production")
        assert AuditEvent.objects.filter(tenant_id=tenant.pk, action="key.issue").exists()
        transaction.set_rollback(True)
    assert not AuditEvent.objects.filter(tenant_id=tenant.pk, action="key.issue").exists()


@pytest.mark.parametrize(
    "facts",
    [
        {"digest": b"x"},
        {"ciphertext": b"x"},
        {"note": f"exq_{'a' * 8}_{'b' * 43}_{'c' * 6}"},
        {"tags": {"deep": ["sk-ant-api03-abcdefghijklmnop"]}},
    ],
)
def test_a_secret_is_refused_and_not_repeated_in_the_error(facts: dict[str, object]) -> None:
    tenant = make_tenant()
    before = AuditEvent.objects.filter(tenant_id=tenant.pk).count()
    with pytest.raises(events.SecretInAuditTrail) as refusal:
        events.record(None, tenant.pk, "tenant.change", tenant, after=facts)
    assert "sk-ant" not in str(refusal.value)
    assert "exq_" not in str(refusal.value)
    assert AuditEvent.objects.filter(tenant_id=tenant.pk).count() == before


def test_an_event_outlives_the_name_of_its_target() -> None:
    tenant = make_tenant("Old name")
    with platform_scope():
        type(tenant).objects.filter(pk=tenant.pk).update(name=f"New {uuid.uuid4()}")
    assert AuditEvent.objects.get(tenant_id=tenant.pk).target_label == tenant.name
