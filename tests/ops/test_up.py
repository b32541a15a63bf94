"""`make up` and `make down`, for real: every process, killed at every level.

One installation for the file, because a start takes seconds: its tests run in this order.
"""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator

import anthropic
import psutil
import pytest

from governance.ops.processes import PROJECT, wait_until
from tests.ops.installed import Installed, accepts, installed, is_ready

MODEL = "claude-haiku-5-5"


@pytest.fixture(scope="module")
def running() -> Iterator[Installed]:
    with installed() as installation:
        installation.up()
        yield installation
        installation.run("down")


def ask(installation: Installed) -> str:
    """One call with the SDK, as the printed snippet makes it."""
    demo = installation.demo
    client = anthropic.Anthropic(base_url=demo["EXCHEQUER_URL"], api_key=demo["EXCHEQUER_API_KEY"])
    message = client.messages.create(
        model=MODEL, max_tokens=100, messages=[{"role": "user", "content": "What does a call cost?"}]
    )
    assert message.content[0].type == "text"
    return message.content[0].text


def calls_charged(installation: Installed) -> int:
    done = installation.run("ledger_sum", "--tenant", "demo", "--json")
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout)["calls"])


def test_a_first_start_answers_the_sdk_and_says_all_that_one_needs(running: Installed) -> None:
    assert "simulator" in ask(running)
    shown = running.run("up").stdout
    for value in (
        "EXCHEQUER_URL", "EXCHEQUER_CONSOLE_URL", "EXCHEQUER_API_KEY", "EXCHEQUER_ADMIN_USER",
        "EXCHEQUER_ADMIN_PASSWORD",
    ):  # fmt: skip
        assert running.demo[value] in shown
    for address in ("DATABASE_URL", "DATABASE_OWNER_URL", "REDIS_URL"):
        assert running.demo[address]


def test_the_snippet_of_the_readme_answers_json_and_stream(running: Installed) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", snippet], env=os.environ | running.demo, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("What does a call cost?") == 2


def test_the_files_with_secrets_are_their_owners_alone(running: Installed) -> None:
    for name in ("demo.env", "secrets.env", "servers/passwords.json", "log/prepare.log"):
        assert stat.S_IMODE((running.state_dir / name).stat().st_mode) == 0o600, name


def test_a_killed_worker_is_started_again(running: Installed) -> None:
    worker = running.pid("gateway-worker-1")
    assert psutil.Process(worker).ppid() == running.pid("gateway")
    os.kill(worker, signal.SIGKILL)
    assert wait_until(lambda: running.pid("gateway-worker-1") != worker, 20)
    assert wait_until(lambda: accepts(running.port), 20)
    assert "simulator" in ask(running)


def test_killed_servers_are_started_again_and_calls_go_on(running: Installed) -> None:
    killed = {name: running.pid(name) for name in ("postgres", "valkey", "simulator")}
    for pid in killed.values():
        os.kill(pid, signal.SIGKILL)
    for name, pid in killed.items():
        assert wait_until(lambda name=name, pid=pid: running.pid(name) != pid, 20)  # type: ignore[misc]
    assert wait_until(lambda: is_ready(running.port), 30)
    assert "simulator" in ask(running)


def test_when_up_itself_is_killed_nothing_goes_on_serving_and_the_next_start_finds_its_data(
    running: Installed,
) -> None:
    ask(running)
    key, secrets = running.demo["EXCHEQUER_API_KEY"], (running.state_dir / "secrets.env").read_text()
    os.kill(running.pid("up"), signal.SIGKILL)
    assert wait_until(lambda: not accepts(running.port) and not accepts(running.port + 1), 10)
    assert wait_until(lambda: not running.processes(), 60), running.processes()
    running.extra_env = running.demo  # whoever sourced demo.env did not bring servers of their own
    running.up()
    running.extra_env = {}
    assert running.demo["EXCHEQUER_API_KEY"] == key
    assert (running.state_dir / "secrets.env").read_text() == secrets


def test_after_kill_9_of_everything_the_ledger_has_every_call(running: Installed) -> None:
    ask(running)
    before = calls_charged(running)
    assert before >= 1
    running.kill_all()
    assert wait_until(lambda: not running.processes(), 20)
    running.up()
    ask(running)
    assert wait_until(lambda: calls_charged(running) >= before + 1, 10, every_seconds=1)


def test_down_leaves_no_process(running: Installed) -> None:
    assert "Stopped." in running.run("down").stdout
    assert running.processes() == []
    assert "Nothing was running." in running.run("down").stdout


def test_a_taken_port_is_one_clear_sentence() -> None:
    with installed() as installation, socket.create_server(("127.0.0.1", installation.port)):
        for arguments in (["up"], ["up", "--detach"]):
            done = installation.run(*arguments)
            assert done.returncode == 1
            assert f"Port {installation.port} is taken" in done.stderr
            assert "EXCHEQUER_PORT=" in done.stderr
            assert "Traceback" not in done.stderr
            assert len(done.stderr.strip().splitlines()) == 1


def test_ctrl_c_in_the_middle_of_a_start_leaves_no_process() -> None:
    with installed() as installation:
        command = [sys.executable, str(PROJECT / "manage.py"), "up"]
        up = subprocess.Popen(command, env=installation.env, stdout=subprocess.DEVNULL)
        assert wait_until(lambda: (installation.state_dir / "run" / "postgres.pid").exists(), 60)
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0
        assert installation.processes() == []


def test_a_port_that_is_no_port_is_one_clear_sentence() -> None:
    with installed() as installation:
        installation.extra_env = {"EXCHEQUER_PORT": "http"}
        done = installation.run("up")
        assert done.returncode == 1
        assert done.stderr.strip() == "CommandError: EXCHEQUER_PORT=http is not a number from 1 to 65534."


def test_a_database_of_ones_own_needs_secrets_of_ones_own() -> None:
    with installed() as installation:
        url = "postgresql://someone@127.0.0.1:1/nowhere"
        installation.extra_env = {"DATABASE_URL": url, "DATABASE_OWNER_URL": url}
        done = installation.run("up")
        assert done.returncode == 1
        assert "EXCHEQUER_KEY_PEPPERS" in done.stderr
        assert "new_secrets" in done.stderr
        assert not (installation.state_dir / "secrets.env").exists()


def test_lost_secrets_are_never_quietly_replaced() -> None:
    with installed() as installation:
        (installation.state_dir / "servers" / "postgres").mkdir(parents=True)
        done = installation.run("up")
        assert done.returncode == 1
        assert "secrets.env" in done.stderr
        assert not (installation.state_dir / "secrets.env").exists()
