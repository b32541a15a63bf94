"""Every refusal leads to a section that says what happened and what to do, and every section to a refusal."""

import ast
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from django.conf import settings

from governance.gateway import error_pages
from governance.gateway.errors import NO_KEY, Refusal
from tests.gateway.asking import post
from tests.harness import Account, Stack, start_stack

GATEWAY = Path(error_pages.__file__).parent
REASON_ARGUMENT = {"Refusal": 2, "invalid": 0, "forbidden": 0, "_unauthenticated": 0}
"""Where each of the ways to make a refusal takes its reason."""


def reasons_in(source: str) -> Iterator[str]:
    """The reasons that this source refuses with. AssertionError for one that is not plain to see."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name not in REASON_ARGUMENT or len(node.args) <= REASON_ARGUMENT[name]:
            continue
        given = node.args[REASON_ARGUMENT[name]]
        for value in (given.body, given.orelse) if isinstance(given, ast.IfExp) else (given,):
            if isinstance(value, ast.Constant):
                yield str(value.value)
            else:
                assert isinstance(value, ast.Name), f"line {value.lineno}: write the reason as a text"
                assert value.id == "reason"  # the helpers of errors.py pass theirs on


def reasons() -> set[str]:
    return {reason for file in GATEWAY.glob("*.py") for reason in reasons_in(file.read_text())}


def test_every_reason_has_its_section_and_no_section_is_orphaned() -> None:
    assert set(error_pages.sections()) == reasons()


def test_the_search_for_reasons_would_find_a_new_one() -> None:
    assert set(reasons_in('raise invalid("brand_new", "x")')) == {"brand_new"}
    assert set(reasons_in('Refusal(429, "t", "a" if x else "b", "m")')) == {"a", "b"}
    with pytest.raises(AssertionError, match="as a text"):
        list(reasons_in('Refusal(429, "t", f"a_{b}", "m")'))
    assert len(reasons()) > 40


def test_each_section_names_the_status_and_type_and_says_what_to_do() -> None:
    for reason, section in error_pages.sections().items():
        assert len(section) > 80, reason
        if reason != "upstream_error":
            assert section.splitlines()[2][:3].isdigit(), reason
            of_its_own = ("request_too_large", "policy_blocked")
            assert "_error`" in section or any(name in section for name in of_its_own), reason


def test_a_refusal_ends_with_an_address_that_answers(account: Account) -> None:
    with start_stack() as stack:
        url = f"{stack.url}/docs/errors"
        with start_stack(env={"EXCHEQUER_ERROR_PAGES_URL": url}) as linking:
            refusals = [post(linking, None), post(linking, account, b"{"), post(linking, account, path="/v2")]
        for response in refusals:
            message, reason = response.json()["error"]["message"], response.headers["exchequer-decision"]
            assert message.endswith(f" More: {url}/{reason}")
            section = httpx2.get(message.rpartition(" ")[2])
            assert section.status_code == 200
            assert section.text.startswith(f"### {reason}\n")
            assert section.headers["content-type"] == "text/plain; charset=utf-8"


def test_the_whole_page_is_served_too_and_an_unknown_reason_is_not(stack: Stack) -> None:
    assert httpx2.get(f"{stack.url}/docs/errors").text.startswith("# Refusals")
    assert httpx2.get(f"{stack.url}/docs/errors/no_such_reason").status_code == 404
    assert httpx2.get(f"{stack.url}/docs/errors/../../settings").status_code == 404


def test_the_address_is_the_gateways_own_unless_another_is_set() -> None:
    assert f"{settings.GATEWAY_PUBLIC_URL}/docs/errors/no_key" in NO_KEY.text
    assert Refusal(400, "api_error", "x", "Why.").text.startswith("Why. More: http")
