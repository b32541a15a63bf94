"""Any change to what a worker has compiled moves the tenant's version, by whatever road it comes."""

import psycopg
from django.db import connection, transaction

from tenants import credentials, keys
from tenants.models import Membership, ProviderCredential, Team, Tenant, TenantVersion
from tenants.pauses import find_pause, pause, resume
from tenants.scope import platform_scope, tenant_scope
from tenants.tenants import change_tenant
from tenants.versioning import GLOBAL_TENANT_ID, NOTIFY_CHANNEL
from tests.tenants.makers import make_member, make_team


def version(tenant_id: int) -> int:
    found = TenantVersion.objects.filter(pk=tenant_id).values_list("version", flat=True).first()
    return found or 0


def execute(statement: str, *parameters: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)


def test_every_change_moves_the_version_of_its_tenant_and_of_no_other(alice: Tenant, bob: Tenant) -> None:
    team, spare = make_team(alice), make_team(alice, "Spare")
    with platform_scope():
        issued = keys.issue_key(alice, "production")
        credential = credentials.add_credential(alice, "main", "sk-ant-0123456789abcdef")
        bobs = version(bob.pk)
        changes = {
            "pause": lambda: change_tenant(alice, status="paused", status_reason="unpaid"),
            "pause of a tag": lambda: pause(alice, "loop", scope="tag", ref="a=b"),
            "resume": lambda: resume(find_pause(alice, scope="tag", ref="a=b")),
            "revoke": lambda: keys.revoke_key(issued.key, "lost"),
            "credential": lambda: credentials.disable_credential(credential),
            "team renamed": lambda: Team.objects.filter(pk=team.pk).update(name="Other"),
            "team deleted": lambda: spare.delete(),
            "raw SQL": lambda: execute(
                "UPDATE tenants_apikey SET max_output_tokens = 5 WHERE tenant_id = %s", alice.pk
            ),
            "raw delete": lambda: execute("DELETE FROM tenants_apikey WHERE id = %s", issued.key.pk),
        }
        for name, change in changes.items():
            before = version(alice.pk)
            change()
            assert version(alice.pk) > before, name
    assert version(bob.pk) == bobs


def test_what_concerns_every_tenant_moves_version_zero(alice: Tenant) -> None:
    before, alices = version(GLOBAL_TENANT_ID), version(alice.pk)
    with platform_scope():
        credential = credentials.add_credential(None, "operator", "sk-ant-0123456789abcdef")
        credentials.disable_credential(credential)
        ProviderCredential.objects.filter(pk=credential.pk).delete()
    assert version(GLOBAL_TENANT_ID) > before
    assert version(alice.pk) == alices


def test_a_row_that_moves_to_another_tenant_moves_both_versions(alice: Tenant, bob: Tenant) -> None:
    team = make_team(alice)
    before = version(alice.pk), version(bob.pk)
    execute("UPDATE tenants_team SET tenant_id = %s WHERE id = %s", bob.pk, team.pk)
    assert version(alice.pk) > before[0]
    assert version(bob.pk) > before[1]


def test_a_change_that_is_rolled_back_moves_nothing(alice: Tenant) -> None:
    before = version(alice.pk)
    with tenant_scope(alice.pk), transaction.atomic():
        keys.issue_key(alice, "production")
        assert version(alice.pk) > before
        transaction.set_rollback(True)
    assert version(alice.pk) == before


def test_memberships_do_not_trouble_the_workers(alice: Tenant) -> None:
    before = version(alice.pk)
    user = make_member(alice, Membership.Role.VIEWER)
    assert version(alice.pk) == before
    user.delete()


def test_listeners_hear_which_tenant_changed(alice: Tenant) -> None:
    parameters = connection.get_connection_params()
    conninfo = {
        name: parameters[name] for name in ("dbname", "user", "host", "password") if name in parameters
    }
    with psycopg.connect(**conninfo, autocommit=True) as listener:
        listener.execute(f"LISTEN {NOTIFY_CHANNEL}")
        with tenant_scope(alice.pk):
            keys.issue_key(alice, "production")
        heard = {note.payload for note in listener.notifies(timeout=5, stop_after=1)}
    assert str(alice.pk) in heard
