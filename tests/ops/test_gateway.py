"""The gateway's parent and its workers: one port, no orphan that serves, a drain that loses nothing."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anthropic
import psutil
import pytest

from governance.ops.processes import PROJECT, Command, is_running, spawn, wait_until
from tests.harness import Stack, make_tenant, start_stack
from tests.ops.installed import accepts, is_ready, two_free_ports


@pytest.fixture(scope="module")
def simulator() -> Iterator[Stack]:
    with start_stack(workers=0) as stack:
        yield stack


@dataclass
class Parent:
    popen: "subprocess.Popen[bytes]"
    port: int
    state_dir: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.popen.pid).children()

    def client(self, key: str) -> anthropic.Anthropic:
        return anthropic.Anthropic(base_url=self.url, api_key=key, max_retries=0)


@contextmanager
def gateway(simulator: Stack, workers: int) -> Iterator[Parent]:
    """`manage.py gateway`, with a state folder of its own."""
    assert simulator.simulator is not None
    with tempfile.TemporaryDirectory(prefix="exq-gateway-") as folder:
        port = two_free_ports()
        env = {
            **os.environ,
            "EXCHEQUER_STATE_DIR": folder,
            "ANTHROPIC_BASE_URL": simulator.simulator.url,
            "ANTHROPIC_API_KEY": "sk-ant-simulated-upstream-key",
        }
        argv = [sys.executable, str(PROJECT / "manage.py"), "gateway", "--port", str(port)]
        log = Path(folder) / "parent.log"
        popen = spawn(Command([*argv, "--workers", str(workers)]), log=log, env=env)
        parent = Parent(popen, port, Path(folder))
        try:
            wait_until(lambda: is_ready(port) or popen.poll() is not None, 60)
            assert is_ready(port), log.read_text()
            yield parent
        finally:
            popen.terminate()
            popen.wait(90)


def ask_slowly(client: anthropic.Anthropic, seconds: float) -> anthropic.types.Message:
    script = json.dumps({"latency_ms": int(seconds * 1000)})
    return client.messages.create(
        model="claude-haiku-5-5",
        max_tokens=50,
        messages=[{"role": "user", "content": "Take your time."}],
        extra_headers={"anthropic-simulator": script},
    )


def test_a_killed_parent_leaves_nothing_serving(simulator: Stack) -> None:
    with gateway(simulator, workers=2) as parent:
        assert wait_until(lambda: len(parent.workers()) == 2, 20)
        workers = [worker.pid for worker in parent.workers()]
        os.kill(parent.popen.pid, signal.SIGKILL)
        parent.popen.wait()
        assert wait_until(lambda: not accepts(parent.port), 5)
        assert wait_until(lambda: not any(map(is_running, workers)), 30)


def test_a_stopped_orphan_does_not_keep_the_port_from_the_next_parent(simulator: Stack) -> None:
    with gateway(simulator, workers=1) as parent:
        (worker,) = parent.workers()
        worker.send_signal(signal.SIGSTOP)
        parent.popen.kill()
        parent.popen.wait()
        assert accepts(parent.port), "the stopped orphan should still hold the port: else this proves nothing"
        argv = [sys.executable, "-m", "governance.ops.gateway_parent", "127.0.0.1", str(parent.port), "0"]
        successor = subprocess.Popen([*argv, str(parent.state_dir)], cwd=PROJECT)
        try:
            assert wait_until(lambda: not is_running(worker.pid), 20)
            assert wait_until(lambda: accepts(parent.port), 10)
        finally:
            successor.terminate()
            assert successor.wait(20) == 0


def test_sigterm_lets_calls_in_flight_finish_and_charges_them(simulator: Stack) -> None:
    account = make_tenant()
    answers: list[anthropic.types.Message] = []
    with gateway(simulator, workers=1) as parent:
        client = parent.client(account.key)
        call = threading.Thread(target=lambda: answers.append(ask_slowly(client, 2.0)))
        call.start()
        assert wait_until(lambda: len(account.holds()) == 1, 10)
        parent.popen.terminate()
        assert wait_until(lambda: not accepts(parent.port), 1.5), "new callers are refused while it drains"
        call.join(30)
        assert parent.popen.wait(30) == 0
    assert [answer.type for answer in answers] == ["message"]
    (charged,) = account.calls()
    assert charged.cost_nanos > 0
    assert account.holds() == []


def test_a_weak_installation_does_not_serve() -> None:
    argv = [sys.executable, str(PROJECT / "manage.py"), "gateway", "--port", str(two_free_ports())]
    done = subprocess.run(
        argv, env={**os.environ, "SECRET_KEY": "changeme"}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "SECRET_KEY" in done.stderr
    assert "Traceback" not in done.stderr
