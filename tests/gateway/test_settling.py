"""A committed hold is always resolved, with whatever rows can be made of the call."""

import json
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from governance.desk.items import Held, Settlement
from governance.gateway import attempt as attempts
from governance.gateway import call_record, errors
from governance.gateway.alerts import Alerts
from governance.gateway.attempt import Attempt
from governance.gateway.charging import Promise
from governance.gateway.gateway import Gateway
from governance.gateway.metrics import Metrics
from tests.gateway.asking import ASK, post, script
from tests.gateway.fixed_upstream import fixed_upstream
from tests.gateway.policies import govern
from tests.harness import Account, Stack, make_tenant, start_stack

UNREADABLE = ('{"effort":1e999}', '{"effort":"\\ud800"}', '{"format":{"type":"\\ud800"}}')


def test_a_request_whose_facts_cannot_be_told_is_charged_like_any_other(account: Account) -> None:
    with fixed_upstream() as url, start_stack(simulator=False, env={"ANTHROPIC_BASE_URL": url}) as stack:
        for output_config in UNREADABLE:
            body = f'{json.dumps(ASK)[:-1]}, "output_config": {output_config}}}'
            assert post(stack, account, body.encode()).status_code in (200, 400)
        assert post(stack, account).status_code == 200
        calls = account.wait_for_calls(4)
    assert {call.outcome for call in calls} <= {"served", "refused"}
    served = [call for call in calls if call.outcome == "served"]
    assert [entry.basis for entry in account.entries()] == ["exact"] * len(served)
    assert account.period().held_nanos == 0


def test_a_call_that_is_charged_at_its_whole_hold_claims_no_saving(stack: Stack) -> None:
    """What its stream told before it broke off is no answer to compare with: that would be a loss made up."""
    account = make_tenant("1000", unbounded_allowed=True)
    govern(account, "rules: [{name: a rule, then: {route: {tier: haiku}}}]")
    search = [{"type": "web_search_20250305", "name": "web_search"}]
    broken_off = script(fault={"error_event_after": 1})
    post(stack, account, {**ASK, "tools": search, "stream": True}, headers=broken_off)
    (call,) = account.wait_for_calls(1)
    (attempt,) = account.attempts()
    assert (attempt.basis, attempt.served_model) == ("full_hold", "claude-haiku-5-5")
    assert call.baseline_nanos == call.cost_nanos == attempt.held_nanos > 0
    assert "savings" not in call.decision


class Exchange(SimpleNamespace):
    """As much of an exchange as settling looks at; `settled` is what arrived at the desk."""

    def __init__(self) -> None:
        self.settled: list[Settlement] = []
        super().__init__(
            id=uuid4(),
            endpoint="/v1/messages",
            key=SimpleNamespace(
                id=7, team_id=None, tenant=SimpleNamespace(id=3, credential_id=5, upstream_headers=())
            ),
            requested_model="claude-sonnet-5-5",
            claim=None,
            taken=None,
            earlier=None,
            request=SimpleNamespace(model="claude-sonnet-5-5"),
            gateway=SimpleNamespace(
                settle=lambda settlement, call: self.settled.append(settlement),
                alerts=Alerts(),
            ),
        )


def an_attempt(exchange: Any) -> Attempt:
    promise = Promise(
        held_nanos=900,
        list_nanos=1000,
        max_tokens=10,
        single_pass=True,
        at=None,  # type: ignore[arg-type]
        book=SimpleNamespace(version=4),  # type: ignore[arg-type]
    )
    return Attempt(exchange, Held(uuid4(), None), (11, 12), promise)


def refuse_to_be_made(*arguments: object, **more: object) -> None:
    raise ValueError("a row that cannot be made")


@pytest.mark.parametrize("broken", [(call_record, "of_call"), (attempts, "_write_usage")])
@pytest.mark.parametrize("ending", ["charge", "void"])
def test_a_hold_is_resolved_even_if_its_rows_cannot_be_made(
    monkeypatch: pytest.MonkeyPatch, broken: tuple[Any, str], ending: str
) -> None:
    monkeypatch.setattr(*broken, refuse_to_be_made)
    exchange = Exchange()
    attempt = an_attempt(exchange)
    if ending == "charge":
        charge = attempt.promise.full_hold("outcome unknown", passes=(object(),))  # type: ignore[arg-type]
        attempt.charge(charge, outcome="served", status=200, reason="served")
    else:
        attempt.void("no connection was made", status=502, reason="upstream_unreachable")
    assert attempt.resolved
    (settlement,) = exchange.settled
    assert settlement.cost_nanos == (900 if ending == "charge" else 0)
    assert (settlement.held_nanos, settlement.period_ids) == (900, (11, 12))
    assert settlement.call is not None
    assert (settlement.call.tenant_id, settlement.call.key_id, settlement.attempt.held_nanos) == (3, 7, 900)


def test_an_attempt_counts_as_resolved_only_once_its_settlement_is_queued() -> None:
    exchange = Exchange()
    exchange.gateway.settle = refuse_to_be_made
    attempt = an_attempt(exchange)
    with pytest.raises(ValueError, match="cannot be made"):
        attempt.void("no connection was made", status=502, reason="upstream_unreachable")
    assert not attempt.resolved


@pytest.mark.parametrize(("held_ms", "times"), [(None, 1), (12, 0)])
def test_a_call_that_fails_unexpectedly_is_recorded_by_its_attempt_once_it_has_one(
    monkeypatch: pytest.MonkeyPatch, held_ms: int | None, times: int
) -> None:
    """Two rows of one call: where a budget's row is locked, the one without the money would come first."""
    monkeypatch.setattr(call_record, "of_call", lambda *_: "a call")
    recorded: list[Any] = []
    gateway: Any = Gateway.__new__(Gateway)
    gateway.metrics = Metrics()
    gateway.desk, gateway.unended = SimpleNamespace(record=recorded.append), {}
    gateway._watch = lambda _: None
    exchange: Any = SimpleNamespace(id=uuid4(), authenticated=True, held_ms=held_ms, is_dry_run=False)
    assert gateway.refuse(exchange, errors.INTERNAL).status_code == 500
    assert recorded == ["a call"] * times
    assert sum(gateway.metrics.calls.values()) == times
