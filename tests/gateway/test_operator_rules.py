"""What the operator refuses for everybody, and what stops by itself when a bound breaks."""

from collections.abc import Iterator
from contextlib import contextmanager
from secrets import token_hex
from typing import Any

import pytest
from django.core.exceptions import ValidationError

from governance.audit.models import AuditEvent
from governance.core.ids import uuid7
from governance.gateway.features import FEATURES_MAX, features_of
from governance.gateway.request import read_request
from governance.pricing.models import BrokenBound, RefusedName, SeenName
from governance.pricing.operator_rules import allow_name, clear_broken_bound, refuse_name
from tests.gateway.asking import ASK, assert_refused, post, script
from tests.gateway.policies import govern
from tests.gateway.test_request_bound import body, image, user
from tests.harness import Account, Stack, make_tenant, wait_until

PICTURE = image(10)


def asks(model: str, *blocks: Any) -> dict[str, Any]:
    return {**ASK, "model": model, "messages": user(*blocks, {"type": "text", "text": "Hello"})}


@contextmanager
def refused(kind: str, name: str) -> Iterator[RefusedName]:
    row = refuse_name(kind, name, "its price is not known")
    try:
        yield row
    finally:
        if RefusedName.objects.filter(pk=row.pk).exists():
            allow_name(row)


def served_within_a_second(stack: Stack, account: Account, ask: dict[str, Any], **options: Any) -> None:
    wait_until(lambda: post(stack, account, ask, **options).status_code == 200, 3)


def refused_within_a_second(stack: Stack, account: Account, ask: dict[str, Any], **options: Any) -> Any:
    wait_until(lambda: post(stack, account, ask, **options).status_code == 403, 3)
    return post(stack, account, ask, **options)


def test_a_policy_sends_nothing_to_a_refused_model_and_no_conversation_stays_on_it(
    stack: Stack, account: Account
) -> None:
    haiku, sonnet = "claude-haiku-5-5", ASK["model"]
    govern(account, "rules: [{name: a rule, then: {route: {tier: haiku}}}]")
    later = [
        *ASK["messages"],
        {"role": "assistant", "content": "Hello."},
        *user({"type": "text", "text": "And now?"}),
    ]
    assert post(stack, account).headers["exchequer-model"] == haiku
    with refused("model", haiku):
        refused_within_a_second(stack, account, asks(haiku))
        for messages in (ASK["messages"], later):
            assert post(stack, account, {**ASK, "messages": messages}).headers["exchequer-model"] == sonnet


# --- A bound that broke ---------------------------------------------------------------------------
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_a_pair_whose_bound_broke_is_refused_for_everybody_until_it_is_cleared(
    stack: Stack, stream: bool
) -> None:
    """Design 1.5: the charge stands in full, the tenant's budget is kept, and the next call is not sent."""
    account, other = make_tenant("100"), make_tenant("100")
    model = "claude-opus-4-7"
    with_picture, plain = asks(model, PICTURE), asks(model)
    too_much = script(usage={"input_tokens": 50_000, "output_tokens": 64})
    assert post(stack, account, {**with_picture, "stream": stream}, headers=too_much).status_code == 200
    account.wait_for_calls(1)
    (attempt,) = account.attempts()
    assert attempt.cost_nanos > attempt.bound_nanos

    answer = refused_within_a_second(stack, other, with_picture)
    assert_refused(answer, 403, "permission_error", f"Calls to {model} with images", "console")
    assert account.tenant.name not in answer.text
    assert post(stack, other, plain).status_code == 200  # fewer features
    richer = {**with_picture, "stop_sequences": ["x"]}
    assert post(stack, other, richer).status_code == 403  # more of them
    assert post(stack, other, asks("claude-haiku-5-5", PICTURE)).status_code == 200  # another model
    other.wait_for_calls(3)
    assert {"bound_broken"} == {call.reason for call in other.calls() if call.status == 403}

    (broken,) = BrokenBound.objects.filter(model_id=model, cleared_at=None)
    assert (broken.features, broken.attempt_id) == (["images"], attempt.pk)
    assert (broken.bound_nanos, broken.cost_nanos) == (attempt.bound_nanos, attempt.cost_nanos)
    assert f"A call to {model} with images cost" in stack.workers[0].log_text()
    clear_broken_bound(broken, "the image was larger than documented")
    served_within_a_second(stack, other, with_picture)


def test_a_bound_is_cleared_once_and_for_a_reason(account: Account) -> None:
    broken = BrokenBound.objects.create(
        model_id=f"m-{token_hex(4)}",
        tenant_id=account.tenant.pk,
        attempt_id=uuid7(),
        bound_nanos=1,
        cost_nanos=2,
    )
    with pytest.raises(ValidationError, match="found out"):
        clear_broken_bound(broken, "  ")
    clear_broken_bound(broken, "tokenizer changed")
    with pytest.raises(ValidationError, match="already"):
        clear_broken_bound(broken, "again")
    event = AuditEvent.objects.get(action="broken_bound.clear", target_id=str(broken.pk))
    assert event.after == {"reason": "tokenizer changed"}


def test_a_cost_that_was_guessed_breaks_no_bound(stack: Stack, account: Account) -> None:
    """A model without a price is charged at the dearest known: that says nothing about the bound."""
    model = "claude-opus-4-6"
    headers = script(model_served=f"claude-{token_hex(4)}", usage={"input_tokens": 9, "output_tokens": 9_000})
    assert post(stack, account, asks(model), headers=headers).status_code == 200
    account.wait_for_calls(1)
    (attempt,) = account.attempts()
    assert attempt.cost_nanos > attempt.bound_nanos
    # The names that it notes are written after what it found broken.
    wait_until(lambda: SeenName.objects.filter(name=attempt.served_model).exists(), 5)
    assert not BrokenBound.objects.filter(model_id=model).exists()


def test_a_request_without_a_bound_can_break_none(stack: Stack) -> None:
    account = make_tenant("1000", unbounded_allowed=True)
    ask = {**ASK, "model": "claude-opus-4-8", "fallbacks": [{"model": "claude-haiku-5-5"}]}
    headers = script(usage={"input_tokens": 2_000_000, "output_tokens": 64})
    assert post(stack, account, ask, headers=headers).status_code == 200
    account.wait_for_calls(1)
    (attempt,) = account.attempts()
    assert attempt.bound_nanos is None


def test_most_of_the_estimated_input_is_a_warning(stack: Stack, account: Account) -> None:
    """Above 90 % the estimate is about to fail; a full output is not: max_tokens is no estimate."""
    long = {"type": "text", "text": "word " * 2_000}
    ask = asks("claude-sonnet-4-6", long)
    for tokens, warns in ((5_000, False), (10_000, True)):
        headers = script(usage={"input_tokens": tokens, "output_tokens": ASK["max_tokens"]})
        assert post(stack, account, ask, headers=headers).status_code == 200
        account.wait_for_calls(1 + warns)
        warned = "A call to claude-sonnet-4-6 with plain text used 10000 of the"
        assert (warned in stack.workers[0].log_text()) == warns
    wait_until(lambda: "exchequer_bound_used_ratio_bucket" in stack.workers[0].get("/metrics")[1], 5)


# --- Features ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ()),
        ({"thinking": {"type": "disabled"}, "stream": True}, ()),
        ({"thinking": {"type": "adaptive"}}, ("thinking",)),
        ({"tools": [{"name": "t", "input_schema": {}}]}, ("tools",)),
        ({"tools": [{"type": "web_search_20260209", "name": "w", "max_uses": 2}]}, ("web_search",)),
        ({"system": "é"}, ("unicode",)),
        ({"cache_control": {"type": "ephemeral", "ttl": "1h"}}, ("cache_1h",)),
        ({"messages": user(PICTURE)}, ("images",)),
        ({"output_config": {"format": {"type": "json_schema"}}}, ("structured_output",)),
        ({"speed": "fast"}, ("fast_mode",)),
        ({"novelty": 1}, ("field:novelty",)),
    ],
)  # fmt: skip
def test_what_a_request_uses_beyond_plain_text_has_a_name(changes: Any, expected: tuple[str, ...]) -> None:
    assert features_of(read_request(body(**changes)), ["effort-2025-11-24"]) == expected


def test_unknown_betas_are_features_and_never_too_many() -> None:
    betas = [f"new-{number}-{'x' * 100}" for number in range(100)]
    found = features_of(read_request(body()), betas)
    assert len(found) == FEATURES_MAX
    assert all(name.startswith("beta:new-") and len(name) <= 80 for name in found)


# --- Names ------------------------------------------------------------------------------------------
def test_a_refused_name_is_refused_for_every_key_and_allowed_again(stack: Stack, account: Account) -> None:
    """Design 1.1: what we do not know passes, labelled; the operator's list refuses it."""
    field, beta = f"novelty_{token_hex(3)}", f"novelty-{token_hex(3)}"
    ask, headers = {**ASK, field: True}, {"anthropic-beta": f"effort-2025-11-24,{beta}"}
    assert post(stack, account, ask).status_code == 200
    assert post(stack, account, headers=headers).status_code == 200
    for kind, name in (("field", field), ("beta", beta)):
        wait_until(lambda: SeenName.objects.filter(name=name).exists(), 5)  # noqa: B023
        assert SeenName.objects.get(name=name).tenant_id == account.tenant.pk
        with refused(kind, name):
            answer = refused_within_a_second(
                stack, account, ask if kind == "field" else ASK, headers=headers if kind == "beta" else None
            )
            assert_refused(answer, 403, "permission_error", name, "its price is not known.", "administrator")
            assert post(stack, account).status_code == 200
    served_within_a_second(stack, account, ask, headers=headers)


def test_a_refused_field_is_found_behind_any_number_of_others(stack: Stack, account: Account) -> None:
    field = f"zz_{token_hex(3)}"
    with refused("field", field):
        many = {f"a{number}": 1 for number in range(40)}
        refused_within_a_second(stack, account, {**ASK, **many, field: None})


def test_a_known_field_can_be_refused_too(stack: Stack, account: Account) -> None:
    with refused("field", "safeguards"):
        refused_within_a_second(stack, account, {**ASK, "safeguards": {}})


def test_a_refused_model_is_refused_by_each_of_its_names(stack: Stack, account: Account) -> None:
    dated, alias = "claude-opus-4-5-20251101", "claude-opus-4-5"
    with refused("model", dated):
        for name in (dated, alias):
            refused_within_a_second(stack, account, {**ASK, "model": name})
        fallback = {**ASK, "fallbacks": [{"model": alias}]}
        assert "claude-opus-4-5" in post(stack, account, fallback).json()["error"]["message"]
        count = {"model": alias, "messages": ASK["messages"]}
        assert post(stack, account, count, path="/v1/messages/count_tokens").status_code == 403


def test_one_tenant_cannot_fill_the_list_of_names(stack: Stack, account: Account) -> None:
    for start in range(0, 80, 10):
        ask = {**ASK, **{f"junk_{token_hex(3)}_{start + number}": 1 for number in range(10)}}
        assert post(stack, account, ask).status_code == 200
    mine = SeenName.objects.filter(tenant_id=account.tenant.pk)
    wait_until(lambda: mine.count() == 50, 5)
    account.wait_for_calls(8)
    assert {call.bound for call in account.calls()} == {"assumed"}


def test_rules_are_audited_and_said_once() -> None:
    name = f"n-{token_hex(4)}"
    row = refuse_name("beta", f" {name} ", "because")
    with pytest.raises(ValidationError):
        refuse_name("beta", name, "twice")
    for kind, other, reason in (("beta", "", "x"), ("beta", f"{name}x", " "), ("head", name, "x")):
        with pytest.raises(ValidationError):
            refuse_name(kind, other, reason)
    pk = str(row.pk)
    allow_name(row)
    events = AuditEvent.objects.filter(target_type="pricing.refusedname", target_id=pk)
    assert {event.action for event in events} == {"name.refuse", "name.allow"}
