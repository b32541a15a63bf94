"""What must hold before a process serves."""

import base64
from typing import Any

import pytest
from django.db import connections

from governance.ops.checks import database_problems, refuse_bad_start
from governance.ops.processes import CannotRun


def test_this_test_session_itself_may_serve() -> None:
    refuse_bad_start()


@pytest.mark.parametrize("key", ["", "changeme", "django-insecure-" + "x1y2z3" * 10, "a" * 60])
def test_a_weak_secret_key_is_refused(settings: Any, key: str) -> None:
    settings.SECRET_KEY = key
    with pytest.raises(CannotRun, match="E001"):
        refuse_bad_start(databases=())


@pytest.mark.parametrize(("name", "number"), [("KEY_PEPPERS", "E002"), ("ENCRYPTION_KEYS", "E003")])
@pytest.mark.parametrize("value", [[], ["k1:short"], ["k1:" + base64.b64encode(bytes(32)).decode()]])
def test_missing_and_default_secrets_are_refused(
    settings: Any, name: str, number: str, value: list[str]
) -> None:
    setattr(settings, name, value)
    with pytest.raises(CannotRun, match=number):
        refuse_bad_start(databases=())


def test_debugging_is_refused_in_production_only(settings: Any) -> None:
    settings.DEBUG = True
    refuse_bad_start(databases=())
    settings.PRODUCTION = True
    with pytest.raises(CannotRun, match="E004"):
        refuse_bad_start(databases=())


def test_a_database_that_forgets_after_a_crash_is_refused() -> None:
    with connections["default"].cursor() as cursor:
        cursor.execute("SET synchronous_commit = off")
        try:
            (problem,) = database_problems("default")
        finally:
            cursor.execute("RESET synchronous_commit")
    assert problem.id == "exchequer.E005"
    assert database_problems("default") == []


def test_the_owner_of_the_tables_may_not_serve() -> None:
    (problem,) = database_problems("owner")
    assert problem.id == "exchequer.E006"
