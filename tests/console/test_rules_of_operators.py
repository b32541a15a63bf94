"""Broken bounds, refused names and names seen: the operator's pages."""

from secrets import token_hex

import pytest
from django.test import Client

from governance.core.ids import uuid7
from governance.pricing.models import BrokenBound, RefusedName, SeenName
from governance.pricing.operator_rules import refuse_name
from tests.console.cast import House, browser, operator

BROKEN, REFUSED, SEEN = (f"/admin/pricing/{name}/" for name in ("brokenbound", "refusedname", "seenname"))


def broken_bound(house: House) -> BrokenBound:
    return BrokenBound.objects.create(
        model_id=f"m-{token_hex(4)}",
        features=["images", "tools"],
        tenant_id=house.tenant.pk,
        attempt_id=uuid7(),
        bound_nanos=1_000_000_000,
        cost_nanos=1_230_000_000,
    )


def text(client: Client, url: str) -> str:
    answer = client.get(url)
    assert answer.status_code == 200, url
    return answer.content.decode()


def test_a_broken_bound_is_shown_and_cleared_with_a_reason(alice: House) -> None:
    client, broken = operator(), broken_bound(alice)
    assert f"{broken.model_id} with images, tools" in text(client, BROKEN)
    page = text(client, f"{BROKEN}{broken.pk}/change/")
    assert "123 %" in page
    assert alice.tenant.name in page
    clear = f"{BROKEN}{broken.pk}/clear/"
    assert "Clear" in text(client, clear)
    assert "required" in client.post(clear, {"reason": ""}).content.decode()
    assert client.post(clear, {"reason": "new tokenizer, fixed in 1.2"}).status_code == 302
    broken.refresh_from_db()
    assert broken.cleared_at
    assert "new tokenizer" in text(client, BROKEN)
    assert "cleared already" in client.post(clear, {"reason": "again"}).content.decode()


def test_a_name_is_refused_and_allowed_again() -> None:
    client, name = operator(), f"beta-{token_hex(4)}"
    form = {"kind": "beta", "name": name, "reason": "not priced"}
    assert client.post(f"{REFUSED}add/", form).status_code == 302
    row = RefusedName.objects.get(name=name)
    assert client.post(f"{REFUSED}add/", form).status_code == 200  # it is there already
    assert name in text(client, REFUSED)
    assert client.post(f"{REFUSED}{row.pk}/allow/").status_code == 302
    assert not RefusedName.objects.filter(name=name).exists()


def test_a_name_that_was_seen_can_be_refused_from_its_page(alice: House) -> None:
    client, name = operator(), f"field_{token_hex(4)}"
    seen = SeenName.objects.create(kind="field", name=name, tenant_id=alice.tenant.pk)
    assert name in text(client, SEEN)
    assert "passes" in text(client, f"{SEEN}{seen.pk}/change/")
    answer = client.post(f"{SEEN}{seen.pk}/refuse/", {"reason": "dearer than it looks"})
    assert answer.status_code == 302
    assert RefusedName.objects.get(name=name).reason == "dearer than it looks"
    assert "already exists" in client.post(f"{SEEN}{seen.pk}/refuse/", {"reason": "x"}).content.decode()


@pytest.mark.parametrize("role", ["owner", "admin", "viewer"])
def test_only_operators_open_these_pages(alice: House, role: str) -> None:
    client, broken = browser(alice.person(role)), broken_bound(alice)
    row = refuse_name("beta", f"beta-{token_hex(4)}", "x")
    for url in (BROKEN, REFUSED, SEEN, f"{REFUSED}add/"):
        assert client.get(url).status_code == 403
    for url in (f"{BROKEN}{broken.pk}/clear/", f"{REFUSED}{row.pk}/allow/"):
        assert client.post(url, {"reason": "x"}).status_code in (302, 403)
    broken.refresh_from_db()
    assert broken.cleared_at is None
    assert RefusedName.objects.filter(pk=row.pk).exists()
