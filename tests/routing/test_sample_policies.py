"""The policies of the documentation are read and checked by the real reader, and do what they say."""

from pathlib import Path
from typing import Any

import pytest

from governance.console.policy_forms import SAMPLE
from governance.routing.document import Policy
from governance.routing.drafts import check_draft
from tests.routing.making import facts, router
from tests.routing.test_checks import KNOWN

DOCS = Path(__file__).resolve().parents[2] / "docs"
SAMPLES = sorted((DOCS / "policies").glob("*.yaml"))
HAIKU, SONNET, OPUS = "claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5"


def read(source: str) -> Policy:
    checked = check_draft(source, KNOWN)
    assert (checked.problems, checked.warnings) == ((), ())
    assert checked.policy is not None
    return checked.policy


def example_of_the_docs() -> str:
    return (DOCS / "policies.md").read_text().split("```yaml\n")[1].split("```")[0]


@pytest.mark.parametrize("source", [*(path.read_text() for path in SAMPLES), SAMPLE, example_of_the_docs()])
def test_a_sample_has_neither_a_problem_nor_a_warning(source: str) -> None:
    read(source)


def test_each_sample_is_in_the_documentation() -> None:
    text = (DOCS / "policies.md").read_text()
    assert len(SAMPLES) >= 4
    for path in SAMPLES:
        assert f"(policies/{path.name})" in text


@pytest.mark.parametrize(
    ("sample", "call", "wanted"),
    [
        ("savings", {"text": "Translate this."}, {"model": HAIKU, "max_tokens_cap": 2000}),
        ("savings", {"text": "Translate this.", "features": {"images"}}, {"model": None}),
        ("savings", {"features": {"thinking"}}, {"max_tokens_cap": None, "concise": None}),
        ("savings", {"features": {"tools"}, "text": "Translate."}, {"model": None, "max_tokens_cap": None}),
        ("savings", {"budget_used_percent": 80, "first_turn": False}, {"model": SONNET}),
        ("savings", {"budget_used_percent": 85, "text": "Translate this."}, {"model": HAIKU}),
        ("savings", {"text": "Translate this.", "first_turn": False}, {"model": None}),
        ("faq-cache", {"tags": {"endpoint": "chat"}, "text": "Your opening hours?"}, {"answer": None}),
        ("faq-cache", {"tags": {"endpoint": "faq"}, "features": {"tools"}}, {"cache": None, "model": HAIKU}),
        ("agents", {"features": {"tools"}}, {"model": None, "fallbacks": (SONNET, HAIKU), "sticky": True}),
        ("agents", {"text": "Write a title for this chat"}, {"model": HAIKU, "prompt_cache": None}),
        ("agents", {"latency": "batch"}, {"model": SONNET}),
        ("freeze", {"budget_used_percent": 94, "latency": "batch"}, {"model": HAIKU, "deny": None}),
        ("freeze", {"budget_used_percent": 80}, {"model": SONNET, "on_exhausted": HAIKU}),
        ("freeze", {"budget_used_percent": 99, "tags": {"priority": "critical"}}, {"deny": None}),
        ("freeze", {"budget_used_percent": None}, {"model": None, "deny": None}),
    ],
)
def test_a_sample_does_what_it_says(sample: str, call: dict[str, Any], wanted: dict[str, Any]) -> None:
    if "features" in call:
        call = {**call, "features": frozenset(call["features"])}
    policy = read((DOCS / "policies" / f"{sample}.yaml").read_text())
    route = router(policy).route(facts(**call))
    assert {name: getattr(route, name) for name in wanted} == wanted


def test_the_samples_answer_and_refuse_with_their_sentences() -> None:
    faq, freeze = (read((DOCS / "policies" / name).read_text()) for name in ("faq-cache.yaml", "freeze.yaml"))
    asked = facts(tags={"endpoint": "faq"}, text="Your opening hours?")
    assert router(faq).route(asked).answer == "We are open Monday to Friday, 9:00 to 17:00."
    kept = router(faq).route(facts(tags={"endpoint": "faq"}, text="How do I return a parcel?")).cache
    assert kept is not None
    assert (kept.ttl_seconds, kept.scope) == (3600, "team")
    denied = router(freeze).route(facts(budget_used_percent=95)).deny
    assert denied is not None
    assert denied.startswith("95 % of the budget is used, so only calls tagged priority=critical go on.")
