"""No signal goes to a process that is not the one written down; children are kept, with back-off."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from governance.ops.processes import CannotRun, Command, PidFile, is_running, start_time, wait_until
from governance.ops.supervisor import NEVER_STEADY_STARTS_MAX, Service, Stopping, Supervisor

SLEEP = Command(["sleep", "60"])


def test_a_process_id_that_was_handed_out_again_is_never_signalled(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        pid_file = PidFile(tmp_path / "gateway.pid")
        pid_file.write(stranger.pid)
        (tmp_path / "gateway.started").write_text(f"{stranger.pid} 12345\n")  # somebody else's start time
        assert pid_file.running() is None
        assert pid_file.signal(signal.SIGKILL) is False
        assert is_running(stranger.pid)

        pid_file.write(stranger.pid)
        assert pid_file.signal(signal.SIGKILL) is True
        assert stranger.wait(10) == -signal.SIGKILL
        assert pid_file.running() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_zombie_does_not_run() -> None:
    child = subprocess.Popen(["true"])
    assert wait_until(lambda: start_time(child.pid) is None, 10)
    child.wait()


def test_a_pid_file_holds_the_bare_number(tmp_path: Path) -> None:
    PidFile(tmp_path / "gateway.pid").write(4711)
    assert (tmp_path / "gateway.pid").read_text() == "4711\n"


def test_a_child_that_is_killed_is_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    supervisor = Supervisor(said.append)
    service = Service("sleeper", SLEEP, tmp_path / "log", pid_file=PidFile(tmp_path / "sleeper.pid"))
    supervisor.start(service)
    try:
        assert service.process is not None
        first = service.process.pid
        service.process.kill()
        assert supervisor.wait(lambda: service.running and service.process.pid != first, 10)  # type: ignore[union-attr]
        assert int((tmp_path / "sleeper.pid").read_text()) != first
        assert "sleeper ended (by SIGKILL)" in said[0]
    finally:
        supervisor.stop()
    assert not service.running
    assert not (tmp_path / "sleeper.pid").exists()


def test_a_child_that_never_gets_well_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    command = Command([sys.executable, "-c", "import sys; sys.exit('no such desk')"])
    said: list[str] = []
    supervisor = Supervisor(said.append)
    supervisor.start(Service("worker", command, tmp_path / "log"))
    with pytest.raises(CannotRun, match=rf"worker ended {NEVER_STEADY_STARTS_MAX} times[\s\S]*no such desk"):
        supervisor.wait(lambda: False, 60)
    assert len(said) == NEVER_STEADY_STARTS_MAX - 1
    pauses = [float(line.split()[-2]) for line in said]
    assert pauses == sorted(set(pauses)), "each pause is longer than the one before"


def test_what_does_not_stop_when_asked_is_killed(tmp_path: Path) -> None:
    deaf = Command(
        [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"]
    )
    supervisor = Supervisor(lambda _: None)
    service = Service("deaf", deaf, tmp_path / "log", stop_seconds=0.5)
    supervisor.start(service)
    wait_until(lambda: False, 0.5)  # until it has become deaf
    supervisor.stop()
    assert service.process is not None
    assert service.process.returncode == -signal.SIGKILL


def test_a_request_to_stop_ends_every_wait(tmp_path: Path) -> None:
    supervisor = Supervisor(lambda _: None)
    supervisor.stop_asked = True
    with pytest.raises(Stopping):
        supervisor.wait(lambda: False, 60)
