"""Budgets on whom and what a call names: end users, tags, sessions, models; one pot for all or one each."""

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from governance.budgets.limits import set_budget
from governance.budgets.models import Budget, SubjectCount
from governance.core.money import usd_to_nanos
from governance.ledger.models import BudgetPeriod
from tenants.scope import platform_scope
from tenants.tenants import create_team
from tests.gateway.asking import ASK, assert_refused, post, script
from tests.harness import Account, Stack, make_tenant, start_stack, wait_until

ALL_OUTPUT = script(usage={"input_tokens": 10, "output_tokens": 64})
ACCOUNT, OTHER_ACCOUNT = "0b1c-account", "77aa-account"


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Stack]:
    with start_stack(workers=2) as running:
        yield running


@pytest.fixture(scope="module")
def one_hold(stack: Stack) -> int:
    """What ASK of the end user “new” holds, in nano-dollars."""
    probe = make_tenant()
    ask(stack, probe, "new")
    return int(probe.wait_for_calls(1)[0].held_nanos)


@pytest.fixture(scope="module")
def one_call(one_hold: int) -> int:
    """An allowance for one call with all its output, and not for two."""
    return one_hold * 3 // 2


def limit(account: Account, scope: str, ref: str = "", limit_nanos: int = 0, **options: Any) -> Budget:
    with platform_scope():
        return set_budget(
            account.tenant,
            scope=scope,
            ref=ref,
            **{"period": "month", "limit_nanos": limit_nanos, "name": f"the {scope} one"} | options,
        )


def ask(stack: Stack, account: Account, user: str | None = None, **options: Any) -> httpx2.Response:
    """One call whose reply uses all the output it may; `user` is its metadata.user_id."""
    body = options.pop("body", ASK)
    headers = ALL_OUTPUT | options.pop("headers", {})
    content = body if user is None else {**body, "metadata": {"user_id": user}}
    return post(stack, account, content, headers=headers, **options)


def settled(account: Account) -> None:
    wait_until(lambda: not account.holds(), 5)


def rows(budget: Budget) -> dict[str, BudgetPeriod]:
    with platform_scope():
        return {row.subject: row for row in BudgetPeriod.objects.filter(budget_id=budget.pk)}


def claude_code(account_id: str, session: str) -> str:
    return json.dumps({"device_id": "d1", "account_uuid": account_id, "session_id": session})


def test_each_end_user_has_an_allowance_and_those_who_name_none_share_one(
    stack: Stack, account: Account, one_call: int
) -> None:
    budget = limit(account, "end_user", each=True, limit_nanos=one_call)
    for user in ("ann", "ben", None):
        assert ask(stack, account, user).status_code == 200
        settled(account)
    for user in ("ann", "ben"):
        assert_refused(ask(stack, account, user), 429, "billing_error", f"“the end_user one: {user}”", "left")
    for nobody in (None, "", "  "):
        assert_refused(ask(stack, account, nobody), 429, "billing_error", "calls that name no end user")
    assert ask(stack, account, "eve").status_code == 200
    settled(account)
    assert set(rows(budget)) == {"", "ann", "ben", "eve"}
    refusal = next(
        call for call in account.wait_for_calls(8) if call.end_user == "ann" and call.status == 429
    )
    assert refusal.decision["refused"]["subject"] == "ann"


def test_claude_codes_user_is_the_account_and_not_the_session(
    stack: Stack, account: Account, one_call: int
) -> None:
    budget = limit(account, "end_user", each=True, limit_nanos=one_call)
    assert ask(stack, account, claude_code(ACCOUNT, "s1")).status_code == 200
    settled(account)
    assert ask(stack, account, claude_code(ACCOUNT, "s2")).status_code == 429
    older = f"user_0123abcd_account_{ACCOUNT}_session_s3"
    assert ask(stack, account, older).status_code == 429
    assert ask(stack, account, claude_code(OTHER_ACCOUNT, "s1")).status_code == 200
    assert ask(stack, account, claude_code("", "s9")).status_code == 200
    assert set(rows(budget)) == {ACCOUNT, OTHER_ACCOUNT, "d1"}
    calls = account.wait_for_calls(5)
    assert Counter(call.end_user for call in calls) == {ACCOUNT: 3, OTHER_ACCOUNT: 1, "d1": 1}
    assert {call.session for call in calls} == {"s1", "s2", "s3", "s9"}


def test_a_user_id_that_only_looks_like_json_is_a_text_of_its_own(stack: Stack, account: Account) -> None:
    budget = limit(account, "end_user", each=True, limit_nanos=usd_to_nanos("1"))
    for user in ("{not json", '{"device_id": 7}', '{"session_id": "only"}', "user_1_account_x"):
        assert ask(stack, account, user).status_code == 200
    assert set(rows(budget)) == {"{not json", '{"device_id": 7}', "", "user_1_account_x"}


def test_the_first_concurrent_calls_of_an_unknown_end_user_stay_within_the_allowance(
    two_workers: Stack, one_hold: int
) -> None:
    """cases A3: the default budget applies before the end user's row exists."""
    account = make_tenant(hold_wait_seconds=0)
    budget = limit(account, "end_user", each=True, limit_nanos=3 * one_hold)
    slow = ALL_OUTPUT | script(latency_ms=3000, usage={"input_tokens": 10, "output_tokens": 64})
    with ThreadPoolExecutor(40) as pool:
        answers = list(
            pool.map(lambda i: ask(two_workers, account, "new", worker=i % 2, headers=slow), range(40))
        )
    assert {answer.status_code for answer in answers} == {200, 429}
    settled(account)
    (row,) = rows(budget).values()
    served = [call.cost_nanos for call in account.calls() if call.outcome == "served"]
    assert len(served) >= 3  # whoever waited long enough got what the three gave back
    assert row.spent_nanos == sum(served) <= row.limit_nanos


def test_parallel_calls_of_one_session_never_pass_its_limit(two_workers: Stack, one_hold: int) -> None:
    """cases A2: 100 parallel calls never spend more than the limit, whichever process they meet."""
    account = make_tenant()
    budget = limit(account, "session", each=True, limit_nanos=10 * one_hold)
    with ThreadPoolExecutor(50) as pool:
        answers = list(
            pool.map(
                lambda i: ask(
                    two_workers, account, worker=i % 2, headers={"x-claude-code-session-id": "agents"}
                ),
                range(100),
            )
        )
    assert {answer.status_code for answer in answers} == {200, 429}
    settled(account)
    (row,) = rows(budget).values()
    assert row.subject == "agents"
    assert row.limit_nanos - one_hold < row.spent_nanos <= row.limit_nanos


def test_an_agent_and_its_sub_agents_share_the_pot_of_their_session(
    stack: Stack, account: Account, one_call: int
) -> None:
    budget = limit(account, "session", each=True, limit_nanos=one_call)
    session = {"x-claude-code-session-id": "s1"}
    assert ask(stack, account, headers=session | {"x-claude-code-agent-id": "main"}).status_code == 200
    settled(account)
    sub_agent = {"x-claude-code-agent-id": "sub", "x-claude-code-parent-agent-id": "main"}
    assert ask(stack, account, headers=session | sub_agent).status_code == 429
    assert ask(stack, account, claude_code(ACCOUNT, "s1")).status_code == 429
    assert ask(stack, account, headers={"x-claude-code-session-id": "s2"}).status_code == 200
    assert set(rows(budget)) == {"s1", "s2"}


def test_a_tags_value_has_a_budget_and_each_value_may_have_one(
    stack: Stack, account: Account, one_call: int
) -> None:
    limit(account, "tag", "feature=search", limit_nanos=0)
    budget = limit(account, "tag", "customer", each=True, limit_nanos=one_call)

    def status(tags: str) -> int:
        answer = ask(stack, account, headers={"exchequer-tags": tags} if tags else {}).status_code
        settled(account)
        return answer

    assert status("feature=search") == 429
    assert status("feature=chat,customer=acme") == 200
    assert status("customer=acme") == 429
    assert status("customer=bolt") == 200
    assert status("") == 200  # the pot of calls that name no customer
    assert status("feature=chat") == 429
    assert set(rows(budget)) == {"acme", "bolt", ""}


@pytest.mark.parametrize(
    ("models_only", "body", "covered"),
    [
        (["sonnet"], {}, True),
        (["claude-sonnet-5-5"], {}, True),
        (["opus"], {}, False),
        (["claude-opus-5-5"], {}, False),
        (["opus"], {"model": "claude-opus-9-experimental"}, True),
        (["claude-opus-5-5"], {"model": "claude-opus-5-5-20261101"}, True),
        (["claude-opus-5-5"], {"model": "claude-unheard-of"}, True),
        (["opus", "sonnet"], {}, True),
        (["haiku"], {"fallbacks": [{"model": "claude-haiku-5-5"}]}, True),
        (["opus"], {"fallbacks": [{"model": "claude-haiku-5-5"}]}, False),
        (["opus"], {"fallbacks": "default"}, True),
    ],
)
def test_a_budget_on_some_models_covers_calls_that_those_may_serve(
    stack: Stack, models_only: list[str], body: dict[str, Any], covered: bool
) -> None:
    """The requested model counts, a fallback's too, and any where the request leaves it to Claude."""
    account = make_tenant(unbounded_allowed=True)
    limit(account, "tenant", models_only=models_only, limit_nanos=0)
    response = ask(stack, account, body={**ASK, **body})
    assert response.status_code == (429 if covered else 200), response.text


def test_a_model_budget_survives_a_restart_and_counts_once_for_all_workers(
    two_workers: Stack, one_call: int
) -> None:
    """cases A6, A8: one durable counter, both enforced and shown."""
    account = make_tenant()
    budget = limit(account, "key", str(account.issued.key.pk), models_only=["sonnet"], limit_nanos=one_call)
    assert ask(two_workers, account, worker=0).status_code == 200
    settled(account)
    two_workers.workers[1].stop()
    two_workers.workers[1].restart()
    for worker in (0, 1):
        response = ask(two_workers, account, worker=worker)
        assert_refused(response, 429, "billing_error", "“the key one”")
    (call, *_) = account.wait_for_calls(3)
    assert rows(budget)[""].spent_nanos == call.cost_nanos


@pytest.mark.parametrize("scope", ["tenant", "team", "key", "end_user", "tag", "session"])
@pytest.mark.parametrize("each", [False, True])
def test_every_way_to_attach_a_budget_is_enforced(stack: Stack, scope: str, each: bool) -> None:
    """cases A1: every way feeds the same resolver."""
    account = make_tenant()
    with platform_scope():
        team = create_team(account.tenant, "Search")
        key = account.issued.key
        type(key).objects.filter(pk=key.pk).update(team=team)
    refs = {
        "team": str(team.pk),
        "key": str(key.pk),
        "end_user": "ann",
        "tag": "feature=faq",
        "session": "s1",
    }
    ref = refs.get(scope, "")
    if each and scope == "tenant":
        return  # a tenant is one
    if each:
        ref = "feature" if scope == "tag" else ""
    limit(account, scope, ref, each=each, enforcement="hard", period="day")
    headers = {"exchequer-tags": "feature=faq", "x-claude-code-session-id": "s1"}
    response = ask(stack, account, "ann", headers=headers)
    assert_refused(response, 429, "billing_error", f"“the {scope} one", "$0.00")


def test_every_budget_that_covers_a_call_is_charged_whatever_else_the_call_says(
    stack: Stack, account: Account
) -> None:
    """cases A7: no header or field makes a budget be passed by, in any order."""
    dollar = usd_to_nanos("1")
    scopes = [
        ("session", ""), ("tag", "feature"), ("end_user", ""), ("key", ""),
    ]  # fmt: skip
    budgets = [limit(account, scope, ref, each=True, limit_nanos=dollar) for scope, ref in scopes]
    budgets.append(limit(account, "end_user", "ann", limit_nanos=dollar, enforcement="soft"))
    budgets.append(limit(account, "tenant", models_only=["sonnet"], limit_nanos=dollar))
    headers = {"exchequer-tags": "feature=faq", "x-claude-code-session-id": "s1"}
    assert ask(stack, account, "ann", headers=headers).status_code == 200
    (call,) = account.wait_for_calls(1)
    (entry,) = account.entries()
    charged = [row for budget in budgets for row in rows(budget).values()]
    assert {*entry.period_ids} == {account.period().pk, *(row.pk for row in charged)}
    assert {row.spent_nanos for row in charged} == {call.cost_nanos}
    assert {row.subject for row in charged} == {"s1", "faq", "ann", str(account.issued.key.pk), ""}


def test_new_subjects_beyond_the_cap_are_refused_in_all_processes_together(two_workers: Stack) -> None:
    account = make_tenant()
    budget = limit(account, "end_user", each=True, limit_nanos=usd_to_nanos("1"), subjects_max=5)
    with ThreadPoolExecutor(20) as pool:
        answers = list(
            pool.map(lambda i: (i // 2, ask(two_workers, account, f"user-{i // 2}", worker=i % 2)), range(40))
        )
    served = {user for user, answer in answers if answer.status_code == 200}
    refused = {user for user, answer in answers if answer.status_code == 429}
    assert (len(served), len(refused), len(served & refused)) == (5, 15, 0)
    settled(account)
    assert {int(subject.removeprefix("user-")) for subject in rows(budget)} == served
    with platform_scope():
        assert SubjectCount.objects.get(budget=budget).subjects == 5
    for worker in (0, 1):
        response = ask(two_workers, account, "user-new", worker=worker)
        assert_refused(
            response, 429, "billing_error", "“the end_user one”", "at most 5", "resets on", "end user"
        )
        assert response.headers["x-should-retry"] == "false"
        assert ask(two_workers, account, f"user-{min(served)}", worker=worker).status_code == 200
        assert ask(two_workers, account, None, worker=worker).status_code == 200
    assert {call.reason for call in account.wait_for_calls(46) if call.status == 429} == {
        "budget_subjects_full"
    }


def test_a_long_or_unprintable_subject_is_kept_as_its_digest(stack: Stack, account: Account) -> None:
    budget = limit(account, "end_user", each=True, limit_nanos=usd_to_nanos("1"))
    for user in ("x" * 5_000, "x" * 4_999 + "y", "line\nbreak", "sha256:" + "0" * 64, "Ünïcødé 用户"):
        assert ask(stack, account, user).status_code == 200
    found = sorted(rows(budget))
    assert len(found) == 5
    assert [subject for subject in found if not subject.startswith("sha256:")] == ["Ünïcødé 用户"]
    assert max(map(len, found)) == 71
    assert "sha256:" + "0" * 64 not in found  # nobody can name the pot of a digest
