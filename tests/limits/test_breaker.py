"""A key that spends faster than it may is paused by itself, with a reason to read; its people are told."""

from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.core import mail

from governance.audit.models import AuditEvent
from governance.celery import app
from governance.core.clock import utcnow
from governance.core.ids import id_floor
from governance.core.money import usd_to_nanos
from governance.limits import telling
from governance.limits.breaker import FIND_BURNING, Burning, pause_burning
from governance.limits.tasks import tell_of_automatic_pauses
from tenants.keys import rotate_key
from tenants.models import Pause
from tenants.pauses import resume
from tenants.scope import platform_scope
from tests.gateway.asking import assert_refused, post, script
from tests.harness import Account, Stack, make_tenant, start_stack, wait_until
from tests.tenants.makers import make_member

DEAR = script(usage={"input_tokens": 10, "output_tokens": 60})  # about $0.0006


@pytest.fixture(scope="module")
def stack() -> Any:
    with start_stack() as running:
        yield running


def capped(usd: str) -> Account:
    return make_tenant(burn_nanos_per_10_minutes_max=usd_to_nanos(usd))


def burning(connection: psycopg.Connection[Any], account: Account, *, in_minutes: float = 0) -> list[Burning]:
    """What a worker finds now, or would find later, of this tenant."""
    since = utcnow() + timedelta(minutes=in_minutes - 10)
    rows = connection.execute(FIND_BURNING, [id_floor(int(since.timestamp() * 1000))]).fetchall()
    return [found for found in (Burning(*row) for row in rows) if found.tenant_id == account.tenant.pk]


def addressed(account: Account, role: str) -> str:
    """A member of that role; the address."""
    user = make_member(account.tenant, role)
    user.email = f"{user.username}@example.com"
    user.save(update_fields=["email"])
    return user.email


def open_pauses(account: Account) -> list[Pause]:
    with platform_scope():
        return list(Pause.objects.filter(tenant=account.tenant, ended_at=None))


def test_a_stolen_key_is_paused_within_seconds_and_only_a_person_resumes_it(
    stack: Stack, owner_connection: psycopg.Connection[Any]
) -> None:
    """cases A16."""
    stolen, honest = capped("0.001"), capped("100")
    mail.outbox.clear()
    owner = addressed(stolen, "owner")
    addressed(stolen, "viewer")
    assert [post(stack, stolen, headers=DEAR).status_code for _ in range(3)] == [200] * 3
    assert post(stack, honest, headers=DEAR).status_code == 200
    wait_until(lambda: post(stack, stolen, headers=DEAR).status_code == 403, 10)
    assert_refused(post(stack, stolen), 403, "permission_error", "of 10 minutes cost $0.0", "than the $0.001")
    assert post(stack, honest, headers=DEAR).status_code == 200
    (row,) = open_pauses(stolen)
    assert (row.is_automatic, row.began_by, row.scope_ref) == (True, None, str(stolen.issued.key.lineage_id))
    event = AuditEvent.objects.get(tenant_id=stolen.tenant.pk, action="pause.begin")
    assert (event.actor_name, event.after["reason"]) == ("system", row.reason)
    assert tell_of_automatic_pauses() >= 1
    assert tell_of_automatic_pauses() == 0
    (sent,) = [message for message in mail.outbox if stolen.tenant.name in message.body]
    assert sent.to == [owner]
    assert "cost $0.0" in sent.body
    assert f"/admin/tenants/pause/{row.pk}/" in sent.body
    with platform_scope():
        resume(row)
    assert burning(owner_connection, stolen) == [], "what it spent before it was resumed is forgiven"
    wait_until(lambda: post(stack, stolen, headers=DEAR).status_code == 200, 3)


def test_all_keys_of_a_rotation_count_together_and_only_ten_minutes_of_them(
    stack: Stack, owner_connection: psycopg.Connection[Any]
) -> None:
    account, uncapped = capped("0.001"), make_tenant()
    with platform_scope():
        successor = Account(account.tenant, rotate_key(account.issued.key, 600))
    assert post(stack, account, headers=DEAR).status_code == 200
    assert post(stack, uncapped, headers=DEAR).status_code == 200
    account.wait_for_calls(1)
    assert burning(owner_connection, account) == []
    assert post(stack, successor, headers=DEAR).status_code == 200
    wait_until(lambda: bool(open_pauses(account)) or bool(burning(owner_connection, account)), 5)
    wait_until(lambda: bool(open_pauses(account)), 10)
    with platform_scope():
        Pause.objects.filter(tenant=account.tenant).delete()
    (found,) = burning(owner_connection, account)
    assert found.spent_nanos == sum(call.cost_nanos for call in account.calls())
    assert burning(owner_connection, account, in_minutes=11) == []
    assert burning(owner_connection, uncapped) == []


def test_two_workers_that_find_the_same_key_pause_it_once() -> None:
    account = capped("1")
    found = Burning(account.tenant.pk, account.issued.key.lineage_id, 10**9, 2 * 10**9)
    assert (pause_burning([found]), pause_burning([found])) == (1, 0)
    assert len(open_pauses(account)) == 1


def test_a_mail_that_cannot_be_sent_is_sent_later_under_the_same_message_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """trust.md fault 45."""
    account = capped("1")
    admin = addressed(account, "admin")
    pause_burning([Burning(account.tenant.pk, account.issued.key.lineage_id, 10**9, 2 * 10**9)])

    def away(*_: Any, **__: Any) -> None:
        raise ConnectionRefusedError("the mail server is away")

    ids = []
    for fails in (telling.EmailMessage.send, away, telling.EmailMessage.send):
        with monkeypatch.context() as patch:
            patch.setattr(telling.EmailMessage, "send", fails)
            mail.outbox.clear()
            tell_of_automatic_pauses()
            ids += [message.extra_headers["Message-ID"] for message in mail.outbox if message.to == [admin]]
        with platform_scope():  # as after a crash between sending and noting that it was sent
            Pause.objects.filter(tenant=account.tenant).update(told_at=None)
    assert len(ids) == 2
    assert len(set(ids)) == 1


def test_what_beat_sends_is_a_task_that_a_worker_knows() -> None:
    app.loader.import_default_modules()
    assert app.conf.beat_schedule
    assert all(entry["task"] in app.tasks for entry in app.conf.beat_schedule.values())
