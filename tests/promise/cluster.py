"""A PostgreSQL of its own for tests that crash it, with Exchequer's schema, prices and one tenant.

Everything about it goes through commands and SQL: Django in the test process talks to the session's
database, not to this one.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from governance.ops.embedded import OWNER_ROLE, EmbeddedServers, RunningServers, embedded_servers
from governance.ops.embedded_files import servers_home
from governance.ops.processes import is_running
from tests.harness import wait_until

PROJECT = Path(__file__).resolve().parents[2]


@dataclass
class Cluster:
    """A database that may be killed and started again."""

    servers: EmbeddedServers
    running: RunningServers

    @property
    def env(self) -> dict[str, str]:
        """What points a process at this database."""
        return {
            "DATABASE_URL": self.servers.database_url(),
            "DATABASE_OWNER_URL": self.servers.database_url(OWNER_ROLE),
            "REDIS_URL": self.servers.redis_url(),
        }

    def manage(self, *arguments: str) -> str:
        """The output of a management command against this database."""
        command = [sys.executable, str(PROJECT / "manage.py"), *arguments]
        done = subprocess.run(command, env={**os.environ, **self.env}, capture_output=True, text=True)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.env["DATABASE_OWNER_URL"], autocommit=True) as connection:
            return connection.execute(sql, parameters).fetchall()

    def crash(self) -> None:
        """kill -9 the postmaster and every backend: no checkpoint, no goodbye."""
        postmaster = self.running.postgres.pid
        os.kill(postmaster, signal.SIGSTOP)  # or it makes another one while we look
        listed = subprocess.run(["pgrep", "-P", str(postmaster)], capture_output=True, text=True)
        children = [int(pid) for pid in listed.stdout.split()]
        for pid in (*children, postmaster):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.running.postgres.wait()
        # What is still dying holds its shared memory, and PostgreSQL would not start beside it.
        wait_until(lambda: not any(map(is_running, children)), 10)
        self.running.valkey.terminate()
        self.running.valkey.wait()

    def start(self) -> None:
        """Call it in the main thread: the servers end with the thread that started them."""
        self.running = self.servers.start()

    def wait_until_nothing_is_held(self, seconds: float) -> None:
        wait_until(
            lambda: self.query("SELECT count(*) FROM ledger_hold") == [(0,)],
            seconds,
            lambda: f"still held: {self.query('SELECT id, lease_id FROM ledger_hold')}",
        )


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A migrated cluster with prices; deleted at the end."""
    folder = Path(tempfile.mkdtemp(prefix="exq-cluster-"))
    folder.chmod(0o755)  # the servers run as another user when we are root
    servers = embedded_servers(folder, programs=servers_home(PROJECT / ".local") / "programs")
    with (servers.data / "postgresql.conf").open("a") as configuration:
        configuration.write("wal_writer_delay = 10s\n")  # what is not flushed at commit is lost in a crash
    made = Cluster(servers, servers.start())
    try:
        made.manage("migrate", "--verbosity=0")
        made.manage("load_prices", "--yes")
        yield made
    finally:
        made.running.stop()
        servers.delete()
        shutil.rmtree(folder, ignore_errors=True)


def make_tenant(cluster: Cluster, limit_usd: str = "1000") -> tuple[str, str]:
    """(slug, key) of a new tenant."""
    slug = f"t-{secrets.token_hex(4)}"
    cluster.manage("create_tenant", slug, "--monthly-limit-usd", limit_usd)
    issued = json.loads(cluster.manage("issue_key", "--tenant", slug, "--name", "test", "--json"))
    return slug, issued["key"]
