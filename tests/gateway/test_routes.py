"""No address reaches Claude with money but through admission (cases A9)."""

import pytest

from governance.gateway.urls import urlpatterns
from tests.gateway.asking import ASK, post
from tests.harness import Stack, make_tenant

SPENDING_ELSEWHERE = (
    "/v1/complete",
    "/v1/messages/",
    "/v1//messages",
    "/v1/messages/batches",
    "/V1/messages",
    "/v1/files",
    "/anthropic/v1/messages",
    "/v1/messages%2f",
    "//v1/messages",
)


def test_who_has_no_money_is_billed_nothing_whatever_the_address_and_method(stack: Stack) -> None:
    """Every address of the gateway and every one that others have spent at, with every method."""
    poor = make_tenant("0")
    ours = [
        "/"
        + str(pattern.pattern).strip("^$").partition("(")[0].rstrip("/")
        + ("/x" if "(" in str(pattern.pattern) else "")
        for pattern in urlpatterns
    ]
    assert "/v1/messages" in ours
    billed = len(stack.bill())
    for path in (*ours, *SPENDING_ELSEWHERE):
        for method in ("POST", "GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"):
            post(stack, poor, ASK, path=path, method=method)
    assert len(stack.bill()) == billed


@pytest.mark.parametrize("path", SPENDING_ELSEWHERE)
def test_an_address_that_is_not_governed_is_not_found_with_any_amount_of_money(
    stack: Stack, path: str
) -> None:
    rich = make_tenant("100")
    billed = len(stack.bill())
    assert post(stack, rich, ASK, path=path).status_code in (404, 405)
    assert len(stack.bill()) == billed


def test_with_money_the_same_request_is_billed(stack: Stack) -> None:
    """Else the tests above would show nothing."""
    billed = len(stack.bill())
    assert post(stack, make_tenant("100"), ASK).status_code == 200
    assert len(stack.bill()) == billed + 1
