"""Whether a worker is alive, may get calls, and how it is doing; and that its logs keep secrets."""

import json
from pathlib import Path

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from governance.core.ids import uuid7
from governance.gateway.logs import REDACTED, redact
from governance.gateway.metrics import Distribution
from tests.gateway.asking import ASK, post, script
from tests.harness import Account, Stack, start_stack, wait_until


def test_metrics_count_calls_holds_and_the_desk(stack: Stack, account: Account) -> None:
    assert post(stack, account).status_code == 200
    account.wait_for_calls(1)
    text = stack.workers[0].get("/metrics")[1]
    names = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    assert {
        "exchequer_calls_total",
        "exchequer_held_dollars",
        "exchequer_open_holds",
        "exchequer_oldest_hold_seconds",
        "exchequer_desk_queue",
        "exchequer_desk_batch_size",
        "exchequer_upstream_first_byte_seconds_bucket",
    } <= names
    assert 'exchequer_calls_total{outcome="served",reason="served"}' in text
    assert "exchequer_desk_healthy 1.0" in text
    assert account.tenant.slug not in text


def test_any_worker_answers_for_all_where_they_share_a_folder(account: Account, tmp_path: Path) -> None:
    with start_stack(workers=2, env={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}) as stack:
        for worker in (0, 0, 1):
            assert post(stack, account, worker=worker).status_code == 200
        served = 'exchequer_calls_total{outcome="served",reason="served"} 3.0'
        for worker in stack.workers:
            wait_until(lambda worker=worker: served in worker.get("/metrics")[1], 5)
        stack.workers[1].kill()
        stack.workers[1].restart()
        wait_until(lambda: "exchequer_desk_healthy 2.0" in stack.workers[0].get("/metrics")[1], 5)
        assert served in stack.workers[1].get("/metrics")[1]


def test_readiness_says_what_is_wrong(stack: Stack) -> None:
    status, body = stack.workers[0].get("/readyz")
    assert (status, json.loads(body)) == (200, {"ready": True, "trouble": [], "notes": []})
    assert stack.workers[0].get("/livez") == (200, "alive\n")


def test_values_counted_here_are_what_prometheus_would_have_observed() -> None:
    here, there = CollectorRegistry(), CollectorRegistry()
    ours = Distribution("seen", "Values.", (0.5, 1, 2), here)
    theirs = Histogram("seen", "Values.", buckets=(0.5, 1, 2), registry=there)
    for value in (0, 0.5, 0.50001, 1, 1.5, 2, 3, 1e9):
        ours.add(value)
        theirs.observe(value)
    ours.publish()
    ours.publish()

    def samples(registry: CollectorRegistry) -> list[str]:
        lines = generate_latest(registry).decode().splitlines()
        return [line for line in lines if not line.startswith(("#", "seen_created"))]

    assert samples(here) == samples(there)
    assert len(samples(here)) == 6


def test_logs_never_show_a_key(account: Account) -> None:
    seen = redact(
        {
            "event": f"calling with {account.key} and sk-ant-api03-abcdef",
            "nested": [{"Authorization": "Basic abc"}, f"Bearer {account.key}"],
            "url": "postgresql://exq_app:hunter2@db/exchequer",
        }
    )
    text = json.dumps(seen)
    assert account.key not in text
    assert account.key[-50:] not in text
    assert not any(secret in text for secret in ("abcdef", "Basic abc", "hunter2"))
    assert text.count(REDACTED) == 5


def test_log_lines_are_json_and_have_no_prompt(account: Account) -> None:
    with start_stack() as stack:
        secret, model = "the merger with Initech", f"claude-unheard-of-{uuid7().hex[-8:]}"
        ask = {**ASK, "model": model, "messages": [{"role": "user", "content": secret}]}
        post(stack, account, ask, headers=script(model_served=model, fault="reset_before_body"))
        post(stack, account, ask, headers=script(error={"type": "api_error", "message": account.key}))
        wait_until(lambda: model in stack.workers[0].log_text(), 5)  # alerts are written every second
        log = stack.workers[0].log_text()
    lines = [json.loads(line) for line in log.splitlines()]
    assert any(model in line["event"] for line in lines)
    assert secret not in log
    assert account.key not in log
