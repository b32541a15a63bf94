"""A model that cannot answer is replaced by the next: held, charged, recorded and said, and not for ever."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from governance.core.money import nanos_to_usd
from governance.limits.limits import set_limit
from tenants.scope import platform_scope
from tests.gateway.asking import ASK, post, script
from tests.gateway.policies import govern
from tests.harness import Account, Stack, free_listener, make_tenant, start_stack, wait_until

ASKED, NEXT, CHEAP, DEAR = "claude-sonnet-5-5", "claude-sonnet-5", "claude-haiku-5-5", "claude-opus-5-5"

OVERLOADED = {"type": "overloaded_error"}
ERRORS = [
    (529, {"type": "overloaded_error"}),
    (429, {"type": "rate_limit_error"}),
    (500, {"type": "api_error"}),
    (503, {"type": "api_error", "status": 503}),
]


def fall_back(account: Account, *models: str) -> None:
    targets = ", ".join(f"{{model: {model}}}" for model in models)
    govern(account, f"rules: [{{name: a rule, then: {{fallbacks: [{targets}]}}}}]")


def degrade(account: Account, model: str) -> None:
    govern(account, f"rules: [{{name: a rule, then: {{on_exhausted: {{model: {model}}}}}}}]")


def failing(account: Account, times: int, error: dict[str, Any] | None = None) -> dict[str, str]:
    """The first so many attempts fail."""
    slug = account.tenant.slug
    return script(id=slug, tag=slug, error={**(error or OVERLOADED), "times": times})


def assert_sound(account: Account) -> None:
    """Every call is the sum of its attempts, each of which has its entry; nothing is held."""
    sums: dict[Any, list[int]] = {}
    for attempt in account.attempts():
        row = (1, attempt.held_nanos, attempt.cost_nanos, attempt.list_nanos)
        sums[attempt.call_id] = [a + b for a, b in zip(sums.get(attempt.call_id, [0] * 4), row, strict=True)]
    for call in account.calls():
        says = [call.attempts, call.held_nanos, call.cost_nanos, call.list_nanos]
        assert says == sums.get(call.id, [0] * 4)
    assert {entry.id for entry in account.entries()} == {attempt.id for attempt in account.attempts()}
    assert sum(call.cost_nanos for call in account.calls()) == account.period().spent_nanos
    assert account.period().held_nanos == 0


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize(("status", "error"), ERRORS)
def test_the_next_model_answers_and_the_call_says_which_and_why(
    stack: Stack, account: Account, status: int, error: dict[str, Any], stream: bool
) -> None:
    """cases I4: requested and served model, reason, rule and policy version on the row."""
    fall_back(account, NEXT, CHEAP)
    headers = failing(account, 1, error)
    response = post(stack, account, {**ASK, "stream": stream}, headers=headers)
    assert response.status_code == 200
    assert response.headers["exchequer-model"] == NEXT
    assert f"fallback_from={ASKED} ({status})" in response.headers["exchequer-decision"]
    (call,) = account.wait_for_calls(1)
    assert (call.requested_model, call.served_model, call.outcome) == (ASKED, NEXT, "served")
    assert (call.rule, call.policy_version) == ("a rule", call.decision["policy"]["applied"][0]["version"])
    assert call.decision["fallback_from"] == f"{ASKED} ({status})"
    first, second = account.attempts()
    assert (first.number, first.purpose, first.requested_model) == (1, "answer", ASKED)
    assert (first.cost_nanos, first.upstream_status) == (0, status)
    assert (second.number, second.purpose, second.requested_model) == (2, "fallback", NEXT)
    assert (second.served_model, second.basis) == (NEXT, "exact")
    assert [entry.kind for entry in account.entries()] == ["void", "charge"]
    (line,) = stack.bill(account.tenant.slug)
    assert line["model_asked"] == NEXT
    assert_sound(account)


def test_fallbacks_end_and_the_last_error_is_relayed_as_it_came(stack: Stack, account: Account) -> None:
    """cases I2: one budget of attempts a call, however many models a policy names."""
    fall_back(account, NEXT, CHEAP, DEAR, "claude-opus-5")
    headers = failing(account, 100, {"type": "overloaded_error", "message": "No, and no."})
    response = post(stack, account, headers=headers)
    assert (response.status_code, response.json()["error"]["message"]) == (529, "No, and no.")
    assert "no_attempt_left" in response.headers["exchequer-decision"]
    (call,) = account.wait_for_calls(1)
    assert (call.outcome, call.status, call.attempts, call.cost_nanos) == ("failed", 529, 4, 0)
    assert [attempt.number for attempt in account.attempts()] == [1, 2, 3, 4]
    assert len({attempt.requested_model for attempt in account.attempts()}) == 4
    assert {entry.kind for entry in account.entries()} == {"void"}
    assert_sound(account)


@pytest.mark.parametrize(
    "answer",
    [{"error": {"type": "invalid_request_error"}}, {"raw_status": 502, "raw_body_b64": "PGh0bWw+"},
     {"fault": "reset_before_headers"}],
    ids=["the request is wrong", "no proof that nothing was billed", "unknown outcome"],
)  # fmt: skip
def test_what_another_model_cannot_mend_or_may_have_been_billed_is_not_tried_again(
    stack: Stack, account: Account, answer: dict[str, Any]
) -> None:
    fall_back(account, NEXT)
    post(stack, account, headers=script(**answer))
    (call,) = account.wait_for_calls(1)
    assert (call.attempts, call.outcome) == (1, "failed")
    assert "fallback_from" not in call.decision
    assert_sound(account)


def test_without_a_connection_every_model_is_tried_and_nothing_is_charged(account: Account) -> None:
    closed = free_listener()
    url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    fall_back(account, NEXT, CHEAP)
    with start_stack(simulator=False, env={"ANTHROPIC_BASE_URL": url}) as stack:
        response = post(stack, account)
        assert response.status_code == 502
        (call,) = account.wait_for_calls(1)
    assert (call.reason, call.attempts, call.cost_nanos) == ("upstream_unreachable", 3, 0)
    assert_sound(account)


def test_a_model_that_cannot_take_the_request_is_left_out_and_named(stack: Stack, account: Account) -> None:
    fall_back(account, "claude-haiku-4-5-20251001", CHEAP)
    response = post(stack, account, {**ASK, "inference_geo": "us"}, headers=failing(account, 1))
    assert response.headers["exchequer-model"] == CHEAP
    (call,) = account.wait_for_calls(1)
    assert call.decision["fallback_not"] == "claude-haiku-4-5-20251001 (incompatible)"


def test_a_fallback_is_never_a_model_that_the_key_may_not_use(stack: Stack) -> None:
    account = make_tenant(allowed_models=[ASKED, CHEAP])
    fall_back(account, NEXT, CHEAP)
    response = post(stack, account, headers=failing(account, 1))
    assert response.headers["exchequer-model"] == CHEAP
    (call,) = account.wait_for_calls(1)
    assert call.decision["fallback_not"] == f"{NEXT} (model_not_allowed)"


def test_a_fallback_that_no_budget_has_room_for_is_not_made(stack: Stack) -> None:
    """The bound of the dearer model is held or the call ends: with the error that upstream gave."""
    rich = make_tenant("1000")
    post(stack, rich)
    (call,) = rich.wait_for_calls(1)
    account = make_tenant(nanos_to_usd(call.held_nanos + 10_000))
    fall_back(account, "claude-opus-4-6")
    response = post(stack, account, headers=failing(account, 1))
    assert response.status_code == 529
    (call,) = account.wait_for_calls(1)
    assert (call.outcome, call.attempts, call.cost_nanos) == ("failed", 1, 0)
    assert "claude-opus-4-6 (budget_exhausted)" in call.decision["fallback_not"]
    assert "refused" not in call.decision
    assert_sound(account)


def test_a_repetition_hears_that_the_call_goes_on_and_then_gets_the_fallbacks_reply(
    stack: Stack, account: Account
) -> None:
    """The claim belongs to the call: a failed attempt's void does not give it back."""
    slug = account.tenant.slug
    late = {"id": slug, "tag": slug, "latency_ms": 700, "error": {**OVERLOADED, "times": 1}}
    fall_back(account, NEXT)
    headers = script(**late) | {"idempotency-key": "once"}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, stack, account, headers=headers)
        wait_until(lambda: len(account.attempts()) == 1 and len(account.holds()) == 1, 5)
        twin = post(stack, account, headers=headers)
        assert (twin.status_code, twin.headers["exchequer-decision"]) == (409, "idempotency_key_in_flight")
        answer = first.result()
    account.wait_for_calls(2)
    again = post(stack, account, headers=headers)
    assert (again.status_code, again.content) == (200, answer.content)
    assert again.headers["exchequer-replayed"] == "true"
    assert len(stack.bill(slug)) == 1


def test_a_call_that_no_model_answers_gives_its_key_back(stack: Stack, account: Account) -> None:
    fall_back(account, NEXT, CHEAP)
    headers = failing(account, 3) | {"idempotency-key": "once"}
    assert post(stack, account, headers=headers).status_code == 529
    account.wait_for_calls(1)
    assert post(stack, account, headers=headers).status_code == 200
    account.wait_for_calls(2)
    assert_sound(account)


def test_a_call_counts_once_against_limits_on_calls_however_many_attempts_it_needs(stack: Stack) -> None:
    account = make_tenant()
    with platform_scope():
        set_limit(account.tenant, {"requests_per_minute": 2, "concurrent_calls": 1}, scope="tenant")
    fall_back(account, NEXT, CHEAP)
    for _ in range(2):
        response = post(stack, account, headers=failing(account, 2))
        assert response.status_code == 200
    assert post(stack, account).status_code == 429
    account.wait_for_calls(3)


def test_the_sdk_sees_one_stream(stack: Stack, account: Account) -> None:
    fall_back(account, NEXT)
    headers = script(id=account.tenant.slug, text="Hello again", error={**OVERLOADED, "times": 1})
    with account.client(stack) as client, client.messages.stream(**ASK, extra_headers=headers) as stream:
        assert stream.get_final_text() == "Hello again"
    account.wait_for_calls(1)
    assert_sound(account)


# --- Degrade: a cheaper model instead of a refusal ---------------------------------------------------


def room_for(stack: Stack, ask: dict[str, Any]) -> int:
    rich = make_tenant("1000")
    post(stack, rich, ask)
    (call,) = rich.wait_for_calls(1)
    return int(call.held_nanos)


def test_a_call_that_does_not_fit_is_made_with_the_cheaper_model_and_says_so(stack: Stack) -> None:
    ask = {**ASK, "max_tokens": 4000}
    least, most = (room_for(stack, {**ask, "model": model}) for model in (CHEAP, ASKED))
    account = make_tenant(nanos_to_usd((least + most) // 2))
    degrade(account, CHEAP)
    response = post(stack, account, ask)
    assert response.status_code == 200
    assert response.headers["exchequer-model"] == CHEAP
    assert f"degraded_from={ASKED}" in response.headers["exchequer-decision"]
    (call,) = account.wait_for_calls(1)
    assert (call.requested_model, call.served_model, call.attempts) == (ASKED, CHEAP, 1)
    assert 0 <= least - call.held_nanos < 2_000, "The hold is the cheaper model's own worst case."
    assert (call.decision["degraded_from"], "refused" in call.decision) == (ASKED, False)
    assert_sound(account)


@pytest.mark.parametrize(("model", "why"), [(CHEAP, f"{CHEAP} (budget_exhausted)"), (DEAR, "(not_cheaper)")])
def test_a_call_that_fits_with_no_model_is_refused_as_ever(stack: Stack, model: str, why: str) -> None:
    account = make_tenant("0.00001")
    degrade(account, model)
    response = post(stack, account)
    assert (response.status_code, response.headers["exchequer-decision"]) == (429, "budget_exhausted")
    (call,) = account.wait_for_calls(1)
    assert why in call.decision["degrade_not"]
    assert call.decision["refused"]["needed_nanos"] == room_for(stack, ASK)
    assert call.requested_model == ASKED


def test_a_call_is_only_degraded_after_it_waited_and_could_not_be_clamped(stack: Stack) -> None:
    """Wait, clamp, degrade, refuse: the client gets the model that it asked for if that takes time alone."""
    ask = {**ASK, "max_tokens": 4000}
    least, most = (room_for(stack, {**ask, "model": model}) for model in (CHEAP, ASKED))
    account = make_tenant(nanos_to_usd((least + most) // 2), clamp_floor_tokens=10)
    degrade(account, CHEAP)
    response = post(stack, account, ask)
    assert response.headers["exchequer-model"] == ASKED
    assert int(response.headers["exchequer-max-tokens"]) < 4000
