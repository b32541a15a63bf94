"""A cheap model labels the message first: held, charged, recorded like any attempt, and never in the way."""

import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
import redis
from django.conf import settings

from governance.budgets.limits import set_budget
from governance.core.money import NANOS_PER_USD
from governance.desk.corrections import CreditRefused, credit_call
from governance.desk.memo import charge_of_orphan
from governance.gateway.labels import Labels
from governance.gateway.lookups import Lookups
from governance.ledger.models import BudgetPeriod
from governance.valkey.link import Link
from tenants.scope import platform_scope
from tests.gateway.asking import ASK, assert_refused, post, script
from tests.gateway.policies import govern
from tests.gateway.test_fallbacks import assert_sound
from tests.gateway.test_scopes import limit
from tests.gateway.test_waiting import in_background
from tests.harness import Account, Stack, make_tenant, start_stack, wait_until

ASKED, SIMPLE, COMPLEX, OTHERWISE = (
    "claude-sonnet-5-5", "claude-haiku-5-5", "claude-opus-5-5", "claude-sonnet-5",
)  # fmt: skip
QUICK = "What is the capital of France?"
LONG = "Prove it, step by step. " * 20
NEITHER = "hm"


def classify(account: Account, terms: str = "", rest: str = "") -> None:
    """Simple to Haiku, complex to Opus, edge cases as asked, and without a label to the older Sonnet."""
    govern(
        account,
        "rules: [{name: a rule, then: {route: {classify: {simple: {tier: haiku}, complex: {tier: opus}, "
        f"edge: {{model: {ASKED}}}, otherwise: {{model: {OTHERWISE}}} {terms} }} }} {rest} }} }}]",
    )


def ask(text: Any, **fields: Any) -> dict[str, Any]:
    return {**ASK, **fields, "messages": [{"role": "user", "content": text}]}


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize(
    ("text", "label", "model"),
    [(QUICK, "simple", SIMPLE), (LONG, "complex", COMPLEX), (NEITHER, "edge", ASKED)],
)
def test_the_label_chooses_the_model_and_its_cost_is_in_the_calls(
    stack: Stack, account: Account, text: str, label: str, model: str, stream: bool
) -> None:
    classify(account)
    response = post(stack, account, ask(text, stream=stream))
    assert response.status_code == 200
    assert response.headers["exchequer-model"] == model
    (call,) = account.wait_for_calls(1)
    assert (call.requested_model, call.served_model, call.attempts) == (ASKED, model, 2)
    assert call.decision["classified"] == label
    first, second = account.attempts()
    assert (first.number, first.purpose, first.served_model, first.basis) == (1, "classify", SIMPLE, "exact")
    assert (second.number, second.purpose, second.served_model) == (2, "answer", model)
    assert 0 < first.cost_nanos < 1_000_000
    assert 0 < first.output_tokens <= 8
    assert_sound(account)
    assert call.baseline_nanos - call.cost_nanos == sum(call.decision["savings"].values())
    assert call.decision["savings"]["overhead"] == -first.cost_nanos


def test_a_text_that_came_before_is_not_asked_about_again_and_no_tenant_learns_from_another(
    stack: Stack, account: Account
) -> None:
    other = make_tenant()
    for one in (account, other):
        classify(one)
    for _ in range(2):
        post(stack, account, ask(QUICK))
    post(stack, other, ask(QUICK))
    calls = account.wait_for_calls(2)
    assert [call.attempts for call in calls] == [2, 1]
    assert {call.decision["classified"] for call in calls} == {"simple"}
    assert [call.attempts for call in other.wait_for_calls(1)] == [2]


@pytest.mark.parametrize("by", ["sonnet", "opus", "fable"])
def test_a_classifier_that_thinks_unasked_still_says_its_word(account: Account, by: str) -> None:
    """Sonnet is told not to think; Opus and Fable cannot be, think as little as they can and have room."""
    classify(account, f", by: {{tier: {by}}}")
    with start_stack(simulator_arguments=["--script", '{"thinking": "unasked"}']) as stack:
        post(stack, account, ask(QUICK))
        (call,) = account.wait_for_calls(1)
    assert call.decision["classified"] == "simple"
    first = account.attempts()[0]
    assert (first.purpose, first.stop_reason) == ("classify", "end_turn")
    assert (first.output_tokens > 8) == (by != "sonnet")
    assert_sound(account)


def test_a_text_that_another_worker_had_labelled_is_not_asked_about_again(account: Account) -> None:
    """Nor once this worker has started anew; and nothing of the text is kept."""
    classify(account)
    valkey = redis.from_url(settings.REDIS_URL)
    before = set(valkey.keys("exchequer:label:*"))
    with start_stack(workers=2) as stack:
        post(stack, account, ask(QUICK))
        wait_until(lambda: set(valkey.keys("exchequer:label:*")) - before, 5)
        (name,) = set(valkey.keys("exchequer:label:*")) - before
        assert valkey.get(name) == b"simple"
        assert 3_500 < valkey.ttl(name) <= 3_600, "as long as the policy says"
        post(stack, account, ask(QUICK), worker=1)
        first, second = account.wait_for_calls(2)
    assert (first.attempts, second.attempts, second.decision["classified"]) == (2, 1, "simple")


def labels_of(link: Link, **terms: int) -> Labels:
    return Labels(link, Lookups(link, lambda what: None), **terms)


async def test_labels_are_forgotten_in_time_and_the_oldest_first() -> None:
    """Without Valkey each worker knows its own."""
    labels = labels_of(Link("redis://127.0.0.1:1/0"), kept_max=2)
    labels.keep(b"never", "simple", 0)
    for name in (b"a", b"b"):
        labels.keep(name, "simple", 60)
    assert await labels.find(b"a") == "simple"
    labels.keep(b"c", "edge", 60)
    found = [await labels.find(name) for name in (b"b", b"a", b"never")]
    assert found == [None, "simple", None]
    assert len(labels) == 2
    labels.stop()


async def test_what_is_no_label_is_none_wherever_it_stands() -> None:
    link, digest = Link(settings.REDIS_URL), secrets.token_bytes(16)
    labels = labels_of(link)
    for planted, found in (("edge", "edge"), ("anything", None), (b"\xff", None), ("", None)):
        await link.ask("SET", f"exchequer:label:{digest.hex()}", planted, "EX", 60)
        assert await labels.find(digest) == found
    labels.stop()


@pytest.mark.parametrize("content", ["   ", [{"type": "text", "text": " "}]], ids=["blank", "blank block"])
def test_a_call_without_text_is_not_classified(stack: Stack, account: Account, content: Any) -> None:
    classify(account)
    post(stack, account, ask(content))
    (call,) = account.wait_for_calls(1)
    assert (call.attempts, call.decision["classified"]) == (1, "not (no_text)")


def test_a_dry_run_asks_no_classifier(stack: Stack, account: Account) -> None:
    classify(account)
    post(stack, account, ask(QUICK), headers={"exchequer-dry-run": "true"})
    assert account.attempts() == []


def test_a_classifier_that_no_budget_has_room_for_is_not_asked(stack: Stack) -> None:
    """Nothing is sent without a hold, the classifier included; then the call itself is refused as ever."""
    account = make_tenant("0.000001")
    classify(account)
    assert_refused(post(stack, account, ask(QUICK)), 429, "billing_error", "left of")
    (call,) = account.wait_for_calls(1)
    assert (call.decision["classified"], call.attempts) == ("not (budget_exhausted)", 0)


def test_a_call_that_is_refused_after_its_classifier_was_paid_is_recorded_with_that_cost(
    stack: Stack,
) -> None:
    account = make_tenant("0.003")  # enough for a label, not for Opus
    classify(account)
    response = post(stack, account, ask(LONG, max_tokens=2000))
    assert_refused(response, 429, "billing_error", "left of")
    (call,) = account.wait_for_calls(1)
    assert (call.outcome, call.reason, call.attempts) == ("refused", "budget_exhausted", 1)
    (attempt,) = account.attempts()
    assert call.cost_nanos == attempt.cost_nanos == account.period().spent_nanos > 0
    assert_sound(account)


def test_repetitions_of_a_call_share_its_claim_from_the_classifier_on(stack: Stack, account: Account) -> None:
    classify(account)
    slug = account.tenant.slug
    headers = script(tag=slug, latency_ms=300) | {"idempotency-key": "once"}
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: post(stack, account, ask(QUICK), headers=headers), range(4)))
    assert sorted(reply.status_code for reply in replies) == [200, 409, 409, 409]
    account.wait_for_calls(4)
    again = post(stack, account, ask(QUICK), headers=headers)
    assert again.headers["exchequer-replayed"] == "true"
    assert [attempt.purpose for attempt in account.attempts()] == ["classify", "answer"]
    account.wait_for_calls(5)
    assert_sound(account)


def test_a_call_that_is_refused_after_its_classifier_may_be_sent_again_under_its_key(stack: Stack) -> None:
    account = make_tenant("0.003")
    classify(account)
    headers = {"idempotency-key": "once"}
    for number in (1, 2):  # refused for the budget both times, not for the key
        response = post(stack, account, ask(LONG, max_tokens=2000), headers=headers)
        assert_refused(response, 429, "billing_error", "left of")
        account.wait_for_calls(number)
    with platform_scope():
        set_budget(account.tenant, scope="tenant", period="month", limit_nanos=10 * NANOS_PER_USD)
    wait_until(
        lambda: post(stack, account, ask(LONG, max_tokens=2000), headers=headers).status_code == 200, 5
    )
    account.wait_for_calls(3)
    assert_sound(account)


def test_a_repetition_of_a_call_that_the_cache_answered_is_answered_by_it_again(
    stack: Stack, account: Account
) -> None:
    classify(account, ", remember_seconds: 0", rest=", cache: {ttl_seconds: 60}")
    first = post(stack, account, ask(QUICK))
    account.wait_for_calls(1)
    for number in (2, 3):
        again = post(stack, account, ask(QUICK), headers={"idempotency-key": "once"})
        assert (again.status_code, again.headers["exchequer-cache"]) == (200, "hit")
        assert again.content == first.content
        account.wait_for_calls(number)
    assert_sound(account)


def test_a_client_that_leaves_while_its_call_waits_has_paid_the_classifier(stack: Stack) -> None:
    account = make_tenant("0.1")
    classify(account, ", remember_seconds: 0")
    large = ask(LONG, max_tokens=3000)
    blocker = in_background(stack, account, large, **script(latency_ms=2000))
    wait_until(lambda: len(account.attempts()) == 1 and len(account.holds()) == 1, 5)
    with pytest.raises(httpx2.TimeoutException):
        post(stack, account, large, seconds=1)
    blocker.result()
    (left,) = [call for call in account.wait_for_calls(2) if call.outcome == "cut"]
    assert (left.reason, left.attempts) == ("left_waiting", 1)
    assert left.cost_nanos > 0
    assert_sound(account)


def test_what_a_classified_call_was_charged_can_be_given_back(stack: Stack, account: Account) -> None:
    """A call's charges are those of all its attempts."""
    classify(account)
    post(stack, account, ask(QUICK))
    (call,) = account.wait_for_calls(1)
    with platform_scope():
        credits = credit_call(call.id, amount_nanos=None, reason="a test")
    assert sorted(-credit.amount_nanos for credit in credits) == sorted(
        attempt.cost_nanos for attempt in account.attempts()
    )
    assert account.period().spent_nanos == 0
    with platform_scope(), pytest.raises(CreditRefused):
        credit_call(call.id, amount_nanos=1, reason="once more")


FAILING = [
    ('{"latency_ms": 900}', ", timeout_ms: 200", "late", "full_hold"),
    ('{"text": "That is hard to say."}', "", "no_label", "exact"),
    ('{"error": {"type": "overloaded_error"}}', "", "no_answer", None),
    ('{"fault": "reset_before_headers"}', "", "no_answer", "full_hold"),
]


def test_without_a_label_the_call_goes_on_as_the_policy_says_otherwise() -> None:
    """What may have been billed is charged in full; what was not is voided."""
    with start_stack() as stack:
        assert stack.simulator
        argv = [*stack.simulator.argv]
        for default, terms, why, basis in FAILING:
            stack.simulator.stop()
            stack.simulator.argv = [*argv, "--script", default]
            stack.simulator.start()
            wait_until(lambda: stack.simulator is not None and stack.simulator.get("/livez")[0] == 200, 10)
            account = make_tenant()
            classify(account, terms)
            response = post(stack, account, ask(QUICK), headers=script(text="Paris"))
            assert (response.status_code, response.headers["exchequer-model"]) == (200, OTHERWISE)
            (call,) = account.wait_for_calls(1)
            assert call.decision["classified"] == f"not ({why})"
            first, _ = account.attempts()
            assert (first.purpose, first.basis) == ("classify", basis)
            assert (first.cost_nanos > 0) == (basis is not None)
            assert_sound(account)


def test_an_answer_from_the_cache_after_a_classifier_costs_what_the_classifier_did(
    stack: Stack, account: Account
) -> None:
    classify(account, ", remember_seconds: 0", rest=", cache: {ttl_seconds: 60}")
    first = post(stack, account, ask(QUICK))
    account.wait_for_calls(1)
    again = post(stack, account, ask(QUICK))
    assert (again.headers["exchequer-cache"], again.content) == ("hit", first.content)
    _, hit = account.wait_for_calls(2)
    assert (hit.cache, hit.outcome, hit.attempts) == ("hit", "served", 1)
    assert hit.cost_nanos == account.attempts()[2].cost_nanos > 0
    assert again.headers["exchequer-cost-usd"] != "0.00"
    assert hit.baseline_nanos - hit.cost_nanos == sum(hit.decision["savings"].values())
    assert_sound(account)


def test_a_classifier_and_fallbacks_share_one_budget_of_attempts(stack: Stack, account: Account) -> None:
    """cases I2."""
    classify(account, rest=f", fallbacks: [{{tier: opus}}, {{model: {OTHERWISE}}}, {{model: claude-opus-5}}]")
    slug = account.tenant.slug
    response = post(stack, account, ask(QUICK), headers=script(error={"type": "overloaded_error"}, tag=slug))
    assert response.status_code == 529
    (call,) = account.wait_for_calls(1)
    purposes = [attempt.purpose for attempt in account.attempts()]
    assert purposes == ["classify", "answer", "fallback", "fallback"]
    assert (call.attempts, call.cost_nanos > 0) == (4, True)
    assert_sound(account)


def test_what_a_classifier_costs_is_its_end_users_like_the_call(stack: Stack, account: Account) -> None:
    users = limit(account, "end_user", each=True, limit_nanos=NANOS_PER_USD, subjects_max=5)
    classify(account)
    assert post(stack, account, ask(QUICK, metadata={"user_id": "ann"})).status_code == 200
    (call,) = account.wait_for_calls(1)
    with platform_scope():
        spent = {row.subject: row.spent_nanos for row in BudgetPeriod.objects.filter(budget_id=users.pk)}
    assert (call.attempts, spent) == (2, {"ann": call.cost_nanos})


def test_a_worker_that_dies_while_it_classifies_leaves_the_row_of_the_clients_call(account: Account) -> None:
    """By what the hold remembers: the sweeper knows nothing else."""
    classify(account)
    with start_stack(simulator_arguments=["--script", '{"latency_ms": 1000}']) as stack:
        asking = ask(QUICK, stream=True, metadata={"user_id": "ann"})
        late = in_background(stack, account, asking, **script(text="Paris"))
        wait_until(lambda: bool(account.holds()), 5)
        (hold,) = account.holds()
        assert late.result().status_code == 200
    swept = charge_of_orphan(
        hold_id=hold.pk,
        tenant_id=hold.tenant_id,
        period_ids=tuple(hold.period_ids),
        amount_nanos=hold.amount_nanos,
        price_version=hold.price_version,
        memo=hold.memo,
    )
    assert swept.call is not None
    assert (swept.call.requested_model, swept.call.stream, swept.call.end_user) == (ASKED, True, "ann")
    assert (swept.attempt.requested_model, swept.attempt.purpose) == (SIMPLE, "classify")
    account.wait_for_calls(1)
