"""What the prompt cache brought, prefix by prefix, and what kept prompts from it: each tenant its own."""

from typing import Any

from tenants.scope import platform_scope
from tests.console.cast import House, browser, make_call

PAGE = "/admin/calls/call/prompt-cache/"


def marked(prefix: str, read: int, written: int, premium: int, saved: int) -> dict[str, Any]:
    figures = {"read_tokens": read, "written_tokens": written, "premium_nanos": premium, "saved_nanos": saved}
    return {
        "policy": {"rewrites": ["prompt-cache(1)"], "not_done": []},
        "prompt_cache": {"prefix": prefix, **figures},
    }


def not_marked(reason: str) -> dict[str, Any]:
    return {"policy": {"rewrites": [], "not_done": ["concise: why not", f"prompt-cache: {reason}"]}}


def page_of(house: House) -> str:
    response = browser(house.person("viewer")).get(PAGE)
    assert response.status_code == 200
    return response.content.decode()


def test_premium_saving_and_hit_rate_are_added_up_for_each_prefix(alice: House, bob: House) -> None:
    """cases I5: a measured saving. 1 of 4 calls wrote, 3 read."""
    endpoint = {"endpoint": f"{alice.canary}-faq"}
    with platform_scope():
        make_call(alice, decision=marked("aaaa11112222", 0, 4_000, 10_000_000, 0), tags=endpoint)
        for _ in range(3):
            make_call(alice, decision=marked("aaaa11112222", 4_000, 0, 0, 40_000_000), tags=endpoint)
        make_call(bob, decision=marked("bbbb33334444", 7, 7, 7, 7))
    page = page_of(alice)
    for text in ("aaaa11112222", "75 %", "12,000", "4,000", "$0.12", "$0.11", f"{alice.canary}-faq"):
        assert text in page, text
    assert "bbbb33334444" not in page
    assert bob.canary not in page
    assert "bbbb33334444" in page_of(bob)


def test_what_keeps_changing_is_counted_once_for_all_its_calls(alice: House, bob: House) -> None:
    with platform_scope():
        for times in (3, 4, 5):
            make_call(alice, decision=not_marked(f"system block 2 changed in {times} of {times + 1} calls"))
        make_call(bob, decision=not_marked("tools changed in 3 of 9 calls"))
    page = page_of(alice)
    assert page.count("system block 2 changed") == 1
    assert "tools changed" not in page
    assert "why not" not in page


def test_a_tenant_without_such_a_rule_is_told_how_to_write_one(alice: House) -> None:
    page = page_of(alice)
    assert "No prompt was marked" in page
    assert "prompt_cache: true" in page
    assert PAGE in browser(alice.person("viewer")).get("/admin/").content.decode()


def test_whoever_belongs_to_nobody_does_not_see_it() -> None:
    assert browser(None).get(PAGE).status_code == 302
