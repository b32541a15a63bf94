"""An entry opens for its own tenant and digest only, and purges cover what they say."""

import time
from typing import Any

import pytest
from django.core.cache import caches
from django.core.exceptions import ValidationError

from governance.audit.models import AuditEvent
from governance.core.usage import Pass, Usage
from governance.response_cache import entries as entries_module
from governance.response_cache.entries import Entry, Names, opened, sealed
from governance.response_cache.models import CachePurge, Kind
from governance.response_cache.purges import compiled, purge
from tenants.scope import platform_scope
from tenants.secrets import seal_reply
from tests.harness import make_tenant

ENTRY = Entry(
    stored_at=time.time(),
    purges_seen=5,
    asked_model="claude-opus-5-5",
    served_model="claude-sonnet-5-5",
    tags={"feature": "search"},
    is_stream=False,
    headers=[(b"content-type", b"application/json")],
    body=b"{}",
    passes=(Pass("claude-sonnet-5-5", Usage(input_tokens=3, output_tokens=5)),),
    cost_nanos=56,
    list_nanos=56,
    call_id="c",
)
DIGEST = b"d" * 32


def test_an_entry_opens_for_its_own_tenant_and_digest_only() -> None:
    value = sealed(ENTRY, 1, DIGEST)
    assert opened(value, 1, DIGEST) == ENTRY
    assert opened(value, 2, DIGEST) is None
    assert opened(value, 1, b"e" * 32) is None
    assert opened(seal_reply(b"x", b"response cache v1 1 " + DIGEST), 1, DIGEST) is None
    assert opened(b"", 1, DIGEST) is None
    assert b"json" not in value


def test_the_guard_of_the_tenant_is_what_keeps_a_moved_entry_shut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The must-fail twin: sealed to nothing but a digest, another tenant's entry would open."""
    monkeypatch.setattr(entries_module, "_owner", lambda tenant_id, digest: digest)
    assert opened(sealed(ENTRY, 1, DIGEST), 2, DIGEST) == ENTRY


def test_entries_are_named_as_django_redis_names_them() -> None:
    names, cache = Names(), caches["responses"]
    assert names.entry(DIGEST) == str(cache.make_key(DIGEST.hex()))
    assert names.lease(DIGEST) != names.entry(DIGEST)
    with pytest.raises(TypeError, match="bytes"):
        cache.set("x", {"a": "pickle"})


@pytest.mark.parametrize(
    ("rows", "covered"),
    [
        ([], False),
        ([(5, "tenant", "")], False),
        ([(6, "tenant", "")], True),
        ([(6, "model", "claude-sonnet-5-5")], True),
        ([(6, "model", "claude-opus-5-5")], True),
        ([(6, "model", "claude-haiku-5-5")], False),
        ([(6, "tag", "feature=search")], True),
        ([(6, "tag", "feature=faq"), (7, "tag", "team=a=b")], False),
        ([(4, "tag", "feature=search"), (6, "model", "claude-haiku-5-5")], False),
    ],
)
def test_a_purge_covers_what_was_begun_before_it(rows: list[Any], covered: bool) -> None:
    assert compiled(rows).cover(ENTRY) == covered


def test_purges_are_few_recorded_and_in_order() -> None:
    tenant, other = make_tenant().tenant, make_tenant().tenant
    with platform_scope():
        purge(other, Kind.TENANT)
        for _ in range(3):
            purge(tenant, Kind.TAG, "feature=search")
        newest = purge(tenant, Kind.MODEL, "claude-sonnet-5-5")
        rows = CachePurge.objects.filter(tenant=tenant).order_by("pk")
        assert [row.kind for row in rows] == ["tag", "model"]
        everything = purge(tenant, Kind.TENANT)
        assert list(rows.all()) == [everything]
        assert everything.pk > newest.pk
        assert CachePurge.objects.filter(tenant=other).count() == 1
        events = AuditEvent.objects.filter(tenant_id=tenant.pk, action="cache.purge")
        assert events.count() == 5


def test_rows_that_no_entry_can_be_older_than_are_dropped(owner_connection: Any) -> None:
    tenant = make_tenant().tenant
    with platform_scope():
        for number in range(3):
            row = purge(tenant, Kind.TAG, f"feature={number}")
        owner_connection.execute(
            "UPDATE response_cache_cachepurge SET at = now() - interval '32 days' "
            "WHERE tenant_id = %s AND id < %s",
            [tenant.pk, row.pk],
        )
        purge(tenant, Kind.TAG, "feature=last")
        assert CachePurge.objects.filter(tenant=tenant).count() == 2


@pytest.mark.parametrize(
    ("kind", "value"), [("tenant", "x"), ("tag", "feature"), ("tag", "=x"), ("model", "")]
)
def test_a_purge_says_what_it_purges(kind: str, value: str) -> None:
    tenant = make_tenant().tenant
    with platform_scope(), pytest.raises(ValidationError):
        purge(tenant, kind, value)
