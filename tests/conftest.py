"""The servers of a test session: a real PostgreSQL and a real Valkey, private to it, stopped at its end.

The session's first process starts both, migrates one template database, and hands their addresses
down in the environment. Every xdist worker then works in its own clone of the template and its own
Valkey database.

Nothing is flushed, truncated or rolled back between tests (the guards on facts forbid it): each
test makes its own tenants and asserts about those alone. Access to the database is open throughout.
"""

import base64
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from psycopg import sql

from governance.ops.embedded import APP_ROLE, OWNER_ROLE, EmbeddedServers, RunningServers, embedded_servers
from governance.ops.embedded_files import servers_home

# Importing `governance` names the settings; a worker that inherits the name would load them before it
# has a database of its own. _use_own_clone names them when the addresses are right.
os.environ.pop("DJANGO_SETTINGS_MODULE", None)

# A busy machine is not a failure; in CI every run tries the same examples.
hypothesis_settings.register_profile(
    "exchequer", deadline=None, derandomize="CI" in os.environ, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("exchequer")

PROJECT = Path(__file__).resolve().parent.parent
TEMPLATE = "exchequer_template"
LONG = {"promise", "soak", "faults", "ops", "desk"}
_servers, _running = pytest.StashKey[EmbeddedServers](), pytest.StashKey[RunningServers]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        worker: str = config.workerinput["workerid"]  # gw0, gw1, …
        _use_own_clone(worker, valkey_database=int(worker.removeprefix("gw")) + 1)
        return
    _start_servers(config)
    if not config.getoption("numprocesses", None):
        _use_own_clone("main", valkey_database=0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Folders of few and long tests first: two workers share the files, and nobody waits for the last one."""
    items.sort(key=lambda item: item.path.parent.name not in LONG)


def pytest_unconfigure(config: pytest.Config) -> None:
    if _servers in config.stash:
        config.stash[_running].stop()
        config.stash[_servers].delete()
        shutil.rmtree(os.environ["EXCHEQUER_STATE_DIR"])


def _start_servers(config: pytest.Config) -> None:
    state_dir = Path(tempfile.mkdtemp(prefix="exq-test-"))
    state_dir.chmod(0o755)  # the servers run as another user when we are root
    servers = embedded_servers(state_dir, programs=servers_home(PROJECT / ".local") / "programs")
    config.stash[_servers], config.stash[_running] = servers, servers.start()
    for name in [name for name in os.environ if name.startswith(("EXCHEQUER_", "ANTHROPIC_"))]:
        del os.environ[name]  # the developer's own settings are no part of a test
    os.environ |= {
        "EXCHEQUER_STATE_DIR": str(state_dir),
        "SECRET_KEY": secrets.token_urlsafe(48),
        "EXCHEQUER_KEY_PEPPERS": _key("p1"),
        "EXCHEQUER_ENCRYPTION_KEYS": _key("k1"),
        "TEST_OWNER_URL": servers.database_url(OWNER_ROLE, "postgres"),
        "DATABASE_OWNER_URL": servers.database_url(OWNER_ROLE, TEMPLATE),
        "DATABASE_URL": servers.database_url(APP_ROLE, TEMPLATE),
        "REDIS_URL": servers.redis_url(),
    }
    _create_database(TEMPLATE, template="template1")
    migrate = [sys.executable, str(PROJECT / "manage.py"), "migrate", "--verbosity=0"]
    done = subprocess.run(migrate, capture_output=True, text=True)
    if done.returncode:
        raise pytest.UsageError(f"migrate failed:\n{done.stdout}{done.stderr}")


def _use_own_clone(process: str, valkey_database: int) -> None:
    """Point this process at a database and a Valkey database that no other worker uses."""
    clone = f"exchequer_{process}"
    _create_database(clone, template=TEMPLATE)
    for name in ("DATABASE_URL", "DATABASE_OWNER_URL"):
        address = urlsplit(os.environ[name])
        os.environ[name] = address._replace(path=f"/{clone}").geturl()
    os.environ["DJANGO_SETTINGS_MODULE"] = "governance.settings"
    os.environ["REDIS_URL"] = f"{os.environ['REDIS_URL'].rpartition('=')[0]}={valkey_database}"

    from django.conf import settings

    assert settings.DATABASES  # loads them now, from the environment above; pytest-django sets Django up


def _create_database(name: str, template: str) -> None:
    with closing(psycopg.connect(os.environ["TEST_OWNER_URL"], autocommit=True)) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        )


def _key(identifier: str) -> str:
    return f"{identifier}:{base64.b64encode(secrets.token_bytes(32)).decode()}"


@pytest.fixture(scope="session", autouse=True)
def _database_is_open(django_db_blocker: pytest.FixtureRequest) -> Iterator[None]:
    with django_db_blocker.unblock():  # type: ignore[attr-defined]
        yield


@pytest.fixture(scope="session")
def django_db_setup() -> None:
    """pytest-django would make a test database of its own here; ours is the worker's clone."""


@pytest.fixture
def owner_connection() -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    """A connection of the role that owns the tables, in autocommit."""
    with closing(psycopg.connect(os.environ["DATABASE_OWNER_URL"], autocommit=True)) as connection:
        yield connection


@pytest.fixture
def app_connection() -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    """A connection of the role that serves, in autocommit."""
    with closing(psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)) as connection:
        yield connection
