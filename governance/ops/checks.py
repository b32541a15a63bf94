"""What must hold before a process serves: no weak secret, no debugging, a database that keeps its word.

Django system checks with ids (`manage.py check --deploy --database default` shows them). Every
process that serves runs them first, by `refuse_bad_start`.
"""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error, Tags, register
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from governance.core.append_only import FACT_TABLES
from governance.ops.processes import CannotRun
from tenants.secrets import SecretsMisconfigured, encryption_keys, key_peppers

START = "exchequer_start"
_SECRET_KEY_LENGTH_MIN = 40
_SECRET_KEY_DIFFERENT_MIN = 10


@register(START, deploy=True)
def secrets_are_set(**_: Any) -> list[CheckMessage]:
    problems: list[CheckMessage] = []
    try:
        key = settings.SECRET_KEY
    except ImproperlyConfigured:  # that is how Django says that it is empty
        key = ""
    weak = len(key) < _SECRET_KEY_LENGTH_MIN or len(set(key)) < _SECRET_KEY_DIFFERENT_MIN
    if weak or key.startswith("django-insecure-"):
        hint = 'Set it to the output of: python -c "import secrets; print(secrets.token_urlsafe(48))"'
        problems.append(
            Error("SECRET_KEY is empty, short or a well-known default.", hint=hint, id="exchequer.E001")
        )
    for read, number in ((key_peppers, "E002"), (encryption_keys, "E003")):
        try:
            read()
        except SecretsMisconfigured as problem:
            problems.append(Error(str(problem), id=f"exchequer.{number}"))
    return problems


@register(START, deploy=True)
def debugging_is_off_in_production(**_: Any) -> list[CheckMessage]:
    if settings.PRODUCTION and settings.DEBUG:
        hint = "Unset DEBUG, or unset EXCHEQUER_PRODUCTION on a machine that is not one."
        return [
            Error(
                "DEBUG is on in production: error pages would show secrets.", hint=hint, id="exchequer.E004"
            )
        ]
    return []


@register(START, Tags.database, deploy=True)
def database_keeps_its_word(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    return database_problems("default") if "default" in (databases or ()) else []


def database_problems(alias: str) -> list[CheckMessage]:
    """Asked as the role of that alias: what it confirms survives a crash, and it cannot undo a fact."""
    problems: list[CheckMessage] = []
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT current_setting('fsync'), current_setting('synchronous_commit'), current_user")
        fsync, synchronous_commit, role = cursor.fetchone()
        cursor.execute(_POWERS, [list(FACT_TABLES)])
        owned, changeable, bypasses = cursor.fetchone()
    if "off" in (fsync, synchronous_commit):
        problems.append(
            Error(
                f"The database has fsync {fsync} and synchronous_commit {synchronous_commit}: "
                "a crash could lose calls that were paid for.",
                hint="Set both to on.",
                id="exchequer.E005",
            )
        )
    if owned or changeable or bypasses:
        problems.append(
            Error(
                f"The role {role} of DATABASE_URL could change facts: it owns tables, may update them, or is "
                "a superuser.",
                hint="Give DATABASE_URL a role of its own and migrate with DATABASE_OWNER_URL as another.",
                id="exchequer.E006",
            )
        )
    return problems


_POWERS = """
    SELECT coalesce(bool_or(pg_has_role(current_user, c.relowner, 'USAGE')), false),
           coalesce(bool_or(has_table_privilege(c.oid, 'UPDATE') OR has_table_privilege(c.oid, 'DELETE')
                            OR has_table_privilege(c.oid, 'TRUNCATE')), false),
           (SELECT rolbypassrls OR rolsuper FROM pg_roles WHERE rolname = current_user)
    FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY(%s)
"""


def refuse_bad_start(databases: Sequence[str] = ("default",)) -> None:
    """CannotRun, with every reason, when this process must not serve. With databases=() asks none of them."""
    found = checks.run_checks(tags=[START], include_deployment_checks=True, databases=list(databases))
    errors = [problem for problem in found if problem.is_serious()]
    if errors:
        raise CannotRun(
            "\n".join(f"{error.msg} {error.hint or ''}".strip() + f" ({error.id})" for error in errors)
        )
