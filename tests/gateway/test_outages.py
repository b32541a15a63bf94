"""What callers see when something behind the gateway is away: nothing goes upstream unrecorded."""

import signal
import threading
import time

from tests.gateway.asking import ASK, assert_refused, post, script
from tests.gateway.database_link import DatabaseLink
from tests.harness import Account, free_listener, make_tenant, start_stack, wait_until


def test_without_its_database_the_gateway_answers_503_and_sends_nothing_upstream(account: Account) -> None:
    link = DatabaseLink()
    with start_stack(env={"DATABASE_URL": link.url}) as stack:
        worker, tag = stack.workers[0], account.tenant.slug
        assert post(stack, account, headers=script(tag=tag)).status_code == 200
        account.wait_for_calls(1)

        in_flight = threading.Thread(
            target=post, args=(stack, account), kwargs={"headers": script(latency_ms=2500, tag=tag)}
        )
        in_flight.start()
        wait_until(lambda: bool(account.holds()), 5)
        link.cut()
        wait_until(lambda: worker.get("/readyz")[0] == 503, 5)
        assert worker.get("/livez")[0] == 200
        for _ in range(3):
            response = post(stack, account, headers=script(tag=tag))
            assert_refused(
                response, 503, "api_error", "Nothing was sent" if "settings" in response.text else ""
            )
            assert response.headers["x-should-retry"] == "true"
            time.sleep(1)
        in_flight.join()
        assert len(stack.bill(tag)) == 2

        link.mend()
        wait_until(lambda: worker.get("/readyz")[0] == 200, 10)
        assert post(stack, account, headers=script(tag=tag)).status_code == 200
        served = [call for call in account.wait_for_calls(3, seconds=10) if call.outcome == "served"]
        assert len(served) == 3  # the one in flight among them
        assert [entry.basis for entry in account.entries()] == ["exact"] * 3
        assert account.period().held_nanos == 0
    link.cut()


def test_a_gateway_that_cannot_start_says_so_and_ends() -> None:
    link = DatabaseLink()
    link.cut()
    try:
        with start_stack(env={"DATABASE_URL": link.url}):
            raise RuntimeError("It started.")
    except AssertionError as error:
        assert "The gateway cannot start" in str(error)  # noqa: PT017  the log is in the message


def test_an_upstream_that_is_away_is_a_502_and_costs_nothing(account: Account) -> None:
    nobody = free_listener()  # bound, not listening: connections are refused
    address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    with start_stack(simulator=False, env={"ANTHROPIC_BASE_URL": address}) as stack:
        response = post(stack, account)
        assert_refused(response, 502, "api_error", "Nothing was charged")
        assert_refused(
            post(stack, account, path="/v1/messages/count_tokens"), 502, "api_error", "could not connect"
        )
    account.wait_for_calls(2)
    (entry,) = account.entries()
    assert (entry.kind, entry.amount_nanos) == ("void", 0)
    assert entry.reason.startswith("no connection was made")
    assert account.period().spent_nanos == account.period().held_nanos == 0


def test_without_redis_calls_go_on(account: Account) -> None:
    with start_stack(env={"REDIS_URL": "redis://127.0.0.1:1/0"}) as stack:
        assert post(stack, account).status_code == 200
    account.wait_for_calls(1)


def test_without_a_claude_api_key_the_refusal_says_so(account: Account) -> None:
    with start_stack(env={"ANTHROPIC_API_KEY": ""}) as stack:
        assert_refused(post(stack, account), 503, "api_error", "no Claude API key", "console")
    (call,) = account.wait_for_calls(1)
    assert call.reason == "no_upstream_credential"


def test_sigterm_lets_streams_finish_and_settles_them(account: Account) -> None:
    with start_stack() as stack:
        replies = []
        ask = {**ASK, "stream": True}
        slow = threading.Thread(
            target=lambda: replies.append(
                post(stack, account, ask, headers=script(deltas=10, chunk_delay_ms=150))
            )
        )
        slow.start()
        wait_until(lambda: bool(account.holds()), 5)
        assert stack.workers[0].stop() in (0, -signal.SIGTERM)  # uvicorn ends as the signal would
        slow.join()
        assert replies[0].text.count("event: message_stop") == 1
    assert [entry.basis for entry in account.entries()] == ["exact"]
    assert not account.holds()


def test_two_gateways_on_one_database_share_a_budget() -> None:
    account = make_tenant("0.0011")
    with start_stack(workers=2) as stack:
        body = {**ASK, "max_tokens": 64}
        assert post(stack, account, body, worker=0).status_code == 200
        account.wait_for_calls(1)
        assert post(stack, account, body, worker=1).status_code == 429
