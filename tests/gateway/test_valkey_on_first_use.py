"""A worker whose calls need no Valkey does not load its library: 5 MB of every worker, and a pause."""

from pathlib import Path

from tests.gateway.asking import ASK, post
from tests.harness import Process, make_tenant, start_stack


def has_loaded_redis(worker: Process) -> bool:
    """Its parser is a shared library, which the kernel knows to be mapped or not."""
    return "hiredis" in Path(f"/proc/{worker.pid}/maps").read_text()


def test_a_worker_loads_redis_with_the_first_call_that_needs_valkey() -> None:
    account = make_tenant()
    with start_stack() as stack:
        (worker,) = stack.workers
        for stream in (False, True):
            assert post(stack, account, {**ASK, "stream": stream}).status_code == 200
        account.wait_for_calls(2)
        assert not has_loaded_redis(worker)
        headers = {"idempotency-key": "first"}
        assert post(stack, account, headers=headers).status_code == 200
        account.wait_for_calls(3)
        assert has_loaded_redis(worker)
        again = post(stack, account, headers=headers)
        assert again.headers["exchequer-replayed"] == "true"
