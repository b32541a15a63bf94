"""The built-in heuristic routes a table of 60 prompts as its rule says, and never upwards unasked."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from governance.routing import heuristic
from governance.routing.capabilities import DEFAULT_TIERS
from governance.routing.document import Tier
from governance.routing.words import Search
from tests.routing.making import facts, policy, router

SEARCH = Search(heuristic.WANTED)
FILLER = (
    *("the", "team", "met", "on", "monday", "and", "went", "through", "what", "had", "come", "in"),
    *("over", "the", "weekend", "nobody", "was", "missing"),
)


def padded(prompt: str | dict[str, Any]) -> str:
    if isinstance(prompt, str):
        return prompt
    words = SEARCH.words(prompt["text"]).count
    more = [FILLER[number % len(FILLER)] for number in range(prompt["padded_to"] - words)]
    return f"{prompt['text']}\n\n{' '.join(more)}"


TABLE = yaml.safe_load((Path(__file__).parent / "prompts.yaml").read_text())
PROMPTS = [(padded(prompt), tier) for tier, prompts in TABLE.items() for prompt in prompts]


def routed(text: str, asked: Tier = "opus", **terms: Any) -> str:
    """The tier that answers."""
    compiled = router(policy({"then": {"route": {"heuristic": True, **terms}}}))
    model = compiled.route(facts(model=DEFAULT_TIERS[asked], text=text)).model
    return asked if model is None else next(tier for tier, name in DEFAULT_TIERS.items() if name == model)


def test_the_table_has_sixty_prompts_of_which_none_is_there_twice() -> None:
    assert len(PROMPTS) == len(set(PROMPTS)) == 60


@pytest.mark.parametrize(("text", "tier"), PROMPTS, ids=lambda given: given[:40])
def test_each_prompt_goes_where_the_rule_says(text: str, tier: str) -> None:
    assert routed(text) == tier


def test_neither_signal_alone_is_enough_for_opus() -> None:
    long, keyword = " ".join(FILLER * 10), "Analyze this."
    assert routed(long) == "sonnet"
    assert routed(keyword) == "sonnet"
    assert routed(f"{keyword} {long}") == "opus"


def test_the_heuristic_never_goes_above_what_was_asked_unless_its_rule_says_so() -> None:
    hard = f"Analyze this. {' '.join(FILLER * 10)}"
    assert [routed(hard, asked) for asked in ("haiku", "sonnet", "opus", "fable")] == [
        "haiku", "sonnet", "opus", "opus",
    ]  # fmt: skip
    assert [routed(hard, asked, upwards=True) for asked in ("haiku", "sonnet")] == ["opus", "opus"]
    assert routed("Tell me about tea.", "haiku") == "haiku"


def test_a_call_that_is_of_the_right_tier_keeps_its_exact_model() -> None:
    compiled = router(policy({"then": {"route": {"heuristic": True}}}, tiers={"opus": "claude-opus-5"}))
    hard = f"Analyze this. {' '.join(FILLER * 10)}"
    route = compiled.route(facts(model="claude-opus-4-8", text=hard))
    assert route.model is None
    assert route.why.startswith("claude-opus-4-8 stays: at least 150 words and “analyze”")


def test_a_model_of_no_known_tier_stays() -> None:
    compiled = router(policy({"then": {"route": {"heuristic": True}}}))
    route = compiled.route(facts(model="claude-next", text="Translate this."))
    assert (route.model, route.rule) == (None, "rule 1")
    assert "its tier is not known" in route.why


def test_the_reason_names_the_signals() -> None:
    compiled = router(policy({"then": {"route": {"heuristic": True}}}))
    assert compiled.route(facts(text="Please translate this.")).why == (
        "claude-haiku-5-5 by heuristic: fewer than 150 words and “translate”: rule “rule 1”, "
        "which holds for every call"
    )


def test_the_words_of_a_message_that_was_cut_off_are_counted_about_right() -> None:
    text = "word " * 100
    assert heuristic.choose(SEARCH.words(f"analyze {text}")).tier == "sonnet"
    cut_off = SEARCH.words(f"analyze {text}", characters=5 * len(text))
    assert heuristic.choose(cut_off).tier == "opus"
