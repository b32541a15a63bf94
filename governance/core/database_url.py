"""One reading of a PostgreSQL address, for Django and for the desk alike."""

from typing import Any

from psycopg.conninfo import conninfo_to_dict

# A page or a command that is stuck in a transaction must not keep a budget's row from the calls.
_NO_LONG_LOCKS = "-c lock_timeout=5s -c idle_in_transaction_session_timeout=10s"


def django_database(url: str) -> dict[str, Any]:
    """A libpq URL (`postgresql://user:pw@host/name`, `?host=/socket/folder` too) → a DATABASES entry."""
    parts = {key: str(value) for key, value in conninfo_to_dict(url).items()}
    named = {key: parts.pop(key, "") for key in ("dbname", "user", "password", "host", "port")}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": named["dbname"],
        "USER": named["user"],
        "PASSWORD": named["password"],
        "HOST": named["host"],
        "PORT": named["port"],
        "OPTIONS": {"options": _NO_LONG_LOCKS, **parts},
        "CONN_MAX_AGE": 0,
    }
