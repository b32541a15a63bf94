"""The two files that `make up` writes: secrets once, and the addresses of the running demo at each start."""

import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path

from governance.settings import read_env_file
from tenants.secrets import new_secret

SECRET_NAMES = ("SECRET_KEY", "EXCHEQUER_KEY_PEPPERS", "EXCHEQUER_ENCRYPTION_KEYS")


def write_env_file(path: Path, values: Mapping[str, str], heading: str) -> None:
    """Readable by its owner alone, and never half written."""
    text = f"# {heading}\n" + "".join(f"{name}={value}\n" for name, value in values.items())
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:  # mode 0600
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).rename(path)


def new_secrets() -> dict[str, str]:
    return {
        "SECRET_KEY": secrets.token_urlsafe(48),
        "EXCHEQUER_KEY_PEPPERS": new_secret(),
        "EXCHEQUER_ENCRYPTION_KEYS": new_secret(),
    }


__all__ = ["SECRET_NAMES", "new_secrets", "read_env_file", "write_env_file"]
