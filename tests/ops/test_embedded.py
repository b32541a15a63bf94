"""The embedded servers in awkward places, and after awkward ends."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from governance.ops.embedded import EmbeddedServers, embedded_servers
from governance.ops.embedded_files import SERVER_ACCOUNT, is_embedded, servers_home
from governance.ops.processes import PROJECT, CannotRun, is_running, wait_until

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the servers as another user")


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="exq-emb-") as path:
        Path(path).chmod(0o755)  # the servers run as another user when we are root
        yield Path(path)


def prepare(state_dir: Path) -> EmbeddedServers:
    return embedded_servers(state_dir, programs=servers_home(PROJECT / ".local") / "programs")


def assert_it_serves(servers: EmbeddedServers) -> None:
    running = servers.start()
    try:
        with psycopg.connect(servers.database_url()) as connection:
            assert connection.execute("SELECT current_user::text").fetchone() == ("exchequer_app",)
    finally:
        running.stop()


@as_root
def test_below_a_closed_folder_the_data_lives_outside_and_no_parent_is_opened(folder: Path) -> None:
    closed = folder / "home"
    closed.mkdir(mode=0o700)
    servers = prepare(closed / ".local")
    try:
        assert (closed / ".local" / "servers").is_symlink()
        assert closed not in servers.home.parents
        assert closed.stat().st_mode & 0o777 == 0o700
        assert servers.data.stat().st_uid == SERVER_ACCOUNT.uid
        assert_it_serves(servers)
        assert prepare(closed / ".local").home == servers.home
    finally:
        servers.delete()


@as_root
def test_data_that_moved_behind_a_closed_folder_is_named_in_a_sentence(folder: Path) -> None:
    servers_home(folder / ".local")
    folder.chmod(0o700)
    with pytest.raises(CannotRun, match="may not enter"):
        prepare(folder / ".local")


def test_in_a_deep_folder_the_sockets_are_short_and_found_again(folder: Path) -> None:
    deep = folder / ("a-long-name-" * 8) / ".local"
    servers = prepare(deep)
    try:
        assert len(os.fsencode(servers.sockets / ".s.PGSQL.5432.lock")) < 108
        assert servers.sockets.stat().st_mode & 0o777 == 0o700
        assert is_embedded(servers.database_url(), deep)
        assert not is_embedded("postgresql://someone@db.example/exchequer", deep)
        assert_it_serves(servers)
        assert prepare(deep).sockets == servers.sockets
        servers.sockets.rename(f"{servers.sockets}.gone")  # as if /tmp had been emptied
        os.rmdir(f"{servers.sockets}.gone")
        assert prepare(deep).sockets != servers.sockets
    finally:
        prepare(deep).delete()


def test_a_lock_file_whose_process_id_went_to_another_program_is_no_obstacle(folder: Path) -> None:
    servers = prepare(folder / ".local")
    account = servers.account
    stranger = subprocess.Popen(
        ["sleep", "60"],
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )
    try:
        (servers.data / "postmaster.pid").write_text(
            f"{stranger.pid}\n{servers.data}\n1700000000\n5432\n{servers.sockets}\n\n0 0\nready\n"
        )
        (servers.sockets / ".s.PGSQL.5432.lock").write_text(f"{stranger.pid}\n{servers.data}\n")
        assert_it_serves(servers)
        assert stranger.poll() is None, "a process that is not ours was stopped"
    finally:
        stranger.kill()
        stranger.wait()


def test_a_server_that_outlived_its_supervisor_is_stopped_before_the_next_start(folder: Path) -> None:
    servers = prepare(folder / ".local")
    left_over = servers.start()
    left_over.valkey.terminate()
    assert_it_serves(servers)
    with suppress(subprocess.TimeoutExpired):
        assert left_over.postgres.wait(timeout=1) is not None
    assert left_over.postgres.returncode is not None


@pytest.mark.parametrize("role", ["postgres", "exchequer_owner", "exchequer_app"])
def test_no_role_connects_without_its_password(role: str) -> None:
    address = make_conninfo(os.environ["DATABASE_URL"], user=role, password="guess")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(address)


def test_data_of_another_major_version_is_left_alone_with_a_sentence(folder: Path) -> None:
    data = servers_home(folder / ".local") / "postgres"
    data.mkdir()
    (data / "PG_VERSION").write_text("17\n")
    with pytest.raises(CannotRun, match=r"written by PostgreSQL 17.*pg_dump"):
        prepare(folder / ".local")


def test_an_interrupted_first_start_is_begun_again(folder: Path) -> None:
    home = servers_home(folder / ".local")
    (home / "postgres.new").mkdir()
    (home / "postgres.new" / "half").write_text("written")
    assert_it_serves(prepare(folder / ".local"))
    assert not (home / "postgres.new").exists()


def test_the_servers_die_with_the_process_that_started_them(folder: Path) -> None:
    """The starter ends without a word; the kernel tells its children."""
    script = f"""
import os
from pathlib import Path
from tests.ops.test_embedded import prepare
running = prepare(Path({str(folder / ".local")!r})).start()
print(running.postgres.pid, running.valkey.pid, flush=True)
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for pid in map(int, done.stdout.split()):
        assert wait_until(lambda pid=pid: not is_running(pid), 15)  # type: ignore[misc]
