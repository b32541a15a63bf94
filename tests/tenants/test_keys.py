"""API keys: what a key looks like, what we keep of it, and how its life ends."""

import re
from datetime import timedelta

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from governance.core.clock import utcnow
from tenants import keys
from tenants.models import ApiKey, Tenant
from tenants.scope import platform_scope, tenant_scope
from tenants.secrets import key_peppers
from tenants.tenants import change_tenant
from tests.tenants.makers import make_team


def test_a_key_says_its_public_id_and_is_found_by_the_published_expression() -> None:
    public_id, text = keys.mint_key()
    assert keys.parse_key(text) == public_id
    assert len(text) == keys.KEY_LENGTH == 63
    assert keys.looks_like_key.findall(f"export KEY={text};") == [text]


def test_two_keys_are_never_alike() -> None:
    texts = [keys.mint_key()[1] for _ in range(1000)]
    assert len({text[13:56] for text in texts}) == 1000


def test_a_key_with_any_one_character_changed_is_refused() -> None:
    _, text = keys.mint_key()
    for position in range(len(text)):
        for other in "0Az_é ":
            if other != text[position]:
                assert keys.parse_key(text[:position] + other + text[position + 1 :]) is None


@settings(derandomize=True)
@given(st.text() | st.from_regex(r"exq_[0-9A-Za-z]{8}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}", fullmatch=True))
def test_junk_is_refused_without_an_exception(text: str) -> None:
    assert keys.parse_key(text) is None


def test_a_wellformed_body_with_a_foreign_alphabet_is_refused() -> None:
    body = "exq_" + "-" * 8 + "_" + "a" * 43
    assert keys.parse_key(f"{body}_{keys._checksum(body)}") is None


def test_parsing_and_digesting_ask_nobody(alice: Tenant) -> None:
    def no_query(*_: object) -> None:
        raise AssertionError("a query was made")

    _, text = keys.mint_key()
    with connection.execute_wrapper(no_query):
        assert keys.parse_key(text)
        assert keys.parse_key("exq_junk") is None
        assert len(keys.digest_key(text, key_peppers()[0].key)) == 32


def test_the_text_of_a_key_is_kept_nowhere(alice: Tenant) -> None:
    with tenant_scope(alice.pk):
        issued = keys.issue_key(alice, "production")
    secret = issued.text[13:56]
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_jsonb(k)::text FROM tenants_apikey k WHERE id = %s", [issued.key.pk])
        row = cursor.fetchone()[0]
        cursor.execute("SELECT to_jsonb(e)::text FROM audit_auditevent e WHERE tenant_id = %s", [alice.pk])
        events = [event for (event,) in cursor.fetchall()]
    assert issued.key.public_id in row
    assert secret not in row
    assert not any(secret in event for event in events)
    assert secret not in repr(issued)
    assert secret not in repr(vars(issued.key))


def test_only_the_right_text_under_the_right_pepper_matches(alice: Tenant) -> None:
    with tenant_scope(alice.pk):
        issued = keys.issue_key(alice, "production")
    digest, pepper_id = bytes(issued.key.digest), issued.key.pepper_id
    assert keys.key_matches(issued.text, digest, pepper_id)
    assert not keys.key_matches(keys.mint_key()[1], digest, pepper_id)
    assert not keys.key_matches(issued.text, digest, "gone")
    assert not keys.key_matches(digest.hex(), digest, pepper_id)


def test_a_new_key_starts_with_the_settings_it_was_given(alice: Tenant) -> None:
    team = make_team(alice)
    with tenant_scope(alice.pk):
        issued = keys.issue_key(
            alice,
            "search",
            team=team,
            default_tags={"feature": "search"},
            required_tags=["endpoint"],
            allowed_models=["claude-haiku-5-5"],
            max_output_tokens=4096,
        )
        key = ApiKey.objects.get(public_id=issued.key.public_id)
    assert (key.team, key.default_tags, key.required_tags) == (team, {"feature": "search"}, ["endpoint"])
    assert (key.allowed_models, key.max_output_tokens) == (["claude-haiku-5-5"], 4096)
    assert key.unbounded_allowed is False
    assert key.revoked_at is key.expires_at is key.replaced_by is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"default_tags": {"a": 1}},
        {"default_tags": {"a": "x" * 257}},
        {"default_tags": {"": "x"}},
        {"default_tags": {"k" * 65: "x"}},
        {"default_tags": {str(n): "x" for n in range(21)}},
        {"default_tags": {"a": "line\nbreak"}},
        {"required_tags": ["a"] * 21},
        {"required_tags": ["nul\x00"]},
        {"allowed_models": ["m"] * 101},
        {"allowed_models": ["tab\t"]},
        {"max_output_tokens": 0},
        {"name": ""},
        {"name": "nul\x00byte"},
        {"name": "escape\x1b[31m"},
    ],
)
def test_a_key_with_unfit_settings_is_refused_in_a_sentence(alice: Tenant, wrong: dict[str, object]) -> None:
    with tenant_scope(alice.pk), pytest.raises(ValidationError) as refusal:
        keys.issue_key(alice, **{"name": "fine", **wrong})
    assert refusal.value.messages


def test_a_revoked_key_stays_revoked_with_its_first_reason(alice: Tenant) -> None:
    with tenant_scope(alice.pk):
        key = keys.issue_key(alice, "leaky").key
        revoked = keys.revoke_key(key, "found in a public repository")
        again = keys.revoke_key(key, "another reason")
    assert revoked.revoked_at is not None
    assert (again.revoked_at, again.revoked_reason) == (revoked.revoked_at, "found in a public repository")


def test_rotation_keeps_both_keys_for_the_overlap_and_all_settings(alice: Tenant) -> None:
    with tenant_scope(alice.pk):
        old = keys.issue_key(alice, "search", default_tags={"a": "b"}, max_output_tokens=10).key
        issued = keys.rotate_key(old, overlap_seconds=3600)
        old.refresh_from_db()
    new = issued.key
    assert new.pk != old.pk
    assert new.public_id != old.public_id
    assert bytes(new.digest) != bytes(old.digest)
    assert (new.name, new.default_tags, new.max_output_tokens) == ("search", {"a": "b"}, 10)
    assert new.expires_at is None
    assert old.replaced_by == new
    assert old.revoked_at is None
    assert timedelta(seconds=3590) < old.expires_at - utcnow() <= timedelta(seconds=3600)


def test_every_successor_stands_in_the_lineage_of_the_first_key(alice: Tenant) -> None:
    with tenant_scope(alice.pk):
        first, other = keys.issue_key(alice, "search").key, keys.issue_key(alice, "other").key
        second = keys.rotate_key(first, overlap_seconds=60).key
        third = keys.rotate_key(second, overlap_seconds=60).key
    assert first.lineage_id == second.lineage_id == third.lineage_id == first.pk
    assert other.lineage_id == other.pk


def test_rotation_never_lengthens_the_life_of_the_old_key(alice: Tenant) -> None:
    soon = utcnow() + timedelta(minutes=5)
    with tenant_scope(alice.pk):
        old = keys.issue_key(alice, "search", expires_at=soon).key
        new = keys.rotate_key(old, overlap_seconds=86_400).key
        old.refresh_from_db()
    assert old.expires_at == soon
    assert new.expires_at == soon


def test_a_key_that_is_revoked_expired_or_replaced_cannot_be_rotated(alice: Tenant) -> None:
    with tenant_scope(alice.pk):
        revoked = keys.revoke_key(keys.issue_key(alice, "one").key, "lost")
        expired = keys.issue_key(alice, "two", expires_at=utcnow() - timedelta(seconds=1)).key
        replaced = keys.issue_key(alice, "three").key
        keys.rotate_key(replaced, overlap_seconds=60)
        for key, word in [(revoked, "revoked"), (expired, "expired"), (replaced, "already rotated")]:
            with pytest.raises(keys.KeyStateError, match=word):
                keys.rotate_key(key, overlap_seconds=60)


def test_a_closed_tenant_gets_no_new_keys(alice: Tenant) -> None:
    with platform_scope():
        closed = change_tenant(alice, status="closed", status_reason="left us")
        with pytest.raises(keys.KeyStateError, match="is closed"):
            keys.issue_key(closed, "late")


def test_a_team_of_another_tenant_is_refused_by_the_function_and_by_the_database(
    alice: Tenant, bob: Tenant
) -> None:
    foreign = make_team(bob)
    with tenant_scope(alice.pk):
        with pytest.raises(keys.KeyStateError, match="another tenant"):
            keys.issue_key(alice, "search", team=foreign)
        key = keys.issue_key(alice, "search").key
    with pytest.raises(IntegrityError, match="apikey_team_of_its_tenant"), transaction.atomic():
        ApiKey._base_manager.filter(pk=key.pk).update(team=foreign)


def test_the_readme_publishes_the_expression_that_the_code_uses() -> None:
    with open("tenants/README.md") as readme:
        assert re.search(r"^    (.*exq_.*)$", readme.read(), re.MULTILINE)[1] == keys.looks_like_key.pattern
