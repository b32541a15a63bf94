"""A request that is moved to another model is one that the other model takes, or it is not moved."""

from collections.abc import Mapping
from copy import deepcopy
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.routing.capabilities import (
    DEFAULT_TIERS,
    TIERS,
    Edit,
    RequestTraits,
    capabilities_of,
    compatibility,
    is_retired,
    refusals,
    retires_soon,
    tier_of,
)
from governance.simulator.catalogue import MODELS as SERVED
from governance.simulator.checks import check_body
from governance.simulator.errors import ApiError
from tests.routing.models import BY_NAME, MODELS, TODAY

TOOL = {"name": "look_up", "input_schema": {"type": "object"}}


def traits_of(body: Mapping[str, Any]) -> RequestTraits:
    config = body.get("output_config", {})
    return RequestTraits(
        max_tokens=body["max_tokens"],
        prompt_tokens=body.get("_prompt_tokens", 0),
        thinking=body.get("thinking"),
        effort=config.get("effort"),
        prefill=body["messages"][-1]["role"] == "assistant",
        sampling=tuple(name for name in ("temperature", "top_p", "top_k") if name in body),
        forced_tools=body.get("tool_choice", {}).get("type") in ("any", "tool"),
        structured_output="format" in config,
        inference_geo=body.get("inference_geo"),
        speed=body.get("speed"),
    )


def edited(body: Mapping[str, Any], edits: list[Edit]) -> dict[str, Any]:
    result = deepcopy(dict(body))
    for edit in edits:
        inside = result
        for name in edit.path[:-1]:
            inside = inside[name]
        if edit.value is None:
            inside.pop(edit.path[-1])
        else:
            inside[edit.path[-1]] = edit.value
    return result


def accepted(body: Mapping[str, Any], model: str) -> bool:
    try:
        check_body({**body, "model": model}, "2023-06-01")
    except ApiError:
        return False
    return True


def moved(target: str, **traits: Any) -> dict[str, Any]:
    """Name → the value that it becomes; raises where the swap must not be made."""
    found = compatibility(BY_NAME[target], RequestTraits(**{"max_tokens": 4_096, **traits}), today=TODAY)
    assert not refusals(found), found
    return {".".join(each.edit.path): each.edit.value for each in found if each.edit}


def refused(target: str, **traits: Any) -> list[str]:
    found = compatibility(BY_NAME[target], RequestTraits(**{"max_tokens": 4_096, **traits}), today=TODAY)
    return [each.name for each in refusals(found)]


bodies = st.fixed_dictionaries(
    {
        "max_tokens": st.sampled_from([1, 1_500, 5_000, 32_000, 64_000, 128_000]),
        "messages": st.sampled_from(
            [
                [{"role": "user", "content": "hi"}],
                [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "{"}],
            ]
        ),
    },
    optional={
        "thinking": st.sampled_from(
            [
                {"type": "adaptive"},
                {"type": "adaptive", "display": "omitted"},
                {"type": "enabled", "budget_tokens": 1_024},
                {"type": "enabled", "budget_tokens": 31_999},
                {"type": "disabled"},
                {"type": "between_tools"},
            ]
        ),
        "temperature": st.just(0.5),
        "tool_choice": st.sampled_from(
            [{"type": "auto"}, {"type": "any"}, {"type": "tool", "name": "look_up"}]
        ),
        "output_config": st.fixed_dictionaries(
            {},
            optional={
                "effort": st.sampled_from(["low", "high", "xhigh", "max"]),
                "format": st.just({"a": 1}),
            },
        ),
        "speed": st.just("fast"),
        "inference_geo": st.just("us"),
    },
)


@given(body=bodies, source=st.sampled_from(SERVED), target=st.sampled_from(SERVED))
def test_a_request_that_one_model_takes_is_taken_by_the_other_after_its_edits(body, source, target) -> None:
    body = {**body, "tools": [TOOL]}
    if not accepted(body, source.id):
        return
    found = compatibility(BY_NAME[target.id], traits_of(body), today=TODAY)
    if refusals(found):
        return
    result = edited(body, [each.edit for each in found if each.edit])
    check_body({**result, "model": target.id}, "2023-06-01")


@given(body=bodies, model=st.sampled_from(SERVED))
def test_what_a_model_takes_already_is_not_changed_but_for_what_the_simulator_lets_pass(body, model) -> None:
    """The simulator takes sampling parameters and any effort from anybody."""
    passes = ("temperature", "output_config")
    body = {name: value for name, value in body.items() if name not in passes}
    body["tools"] = [TOOL]
    if accepted(body, model.id):
        assert compatibility(BY_NAME[model.id], traits_of(body), today=TODAY) == ()


def test_every_model_that_can_be_called_has_a_row() -> None:
    live = [model for model in MODELS if not is_retired(model, TODAY)]
    without = [model.model_id for model in live if capabilities_of(model) is None]
    assert without == ["claude-mythos-preview"]  # nobody knows whether it still answers


def test_an_unknown_model_is_never_a_target() -> None:
    traits = RequestTraits(max_tokens=10)
    (unknown,) = compatibility(None, traits, today=TODAY, name="claude-next-9")
    assert (unknown.name, unknown.edit) == ("unknown_model", None)
    assert "claude-next-9" in unknown.sentence
    assert refused("claude-mythos-preview") == ["unknown_model"]


def test_a_retired_model_is_never_a_target() -> None:
    sonnet = BY_NAME["claude-sonnet-4-5"]
    traits = RequestTraits(max_tokens=10)
    assert compatibility(sonnet, traits, today=date(2026, 11, 29)) == ()
    assert [each.name for each in compatibility(sonnet, traits, today=date(2026, 11, 30))] == [
        "retired_model"
    ]
    assert retires_soon(sonnet, TODAY)
    assert not retires_soon(BY_NAME["claude-opus-5"], TODAY)
    assert is_retired(BY_NAME["claude-3-haiku-20240307"], TODAY)


@pytest.mark.parametrize(
    ("target", "asked", "becomes"),
    [
        ("claude-haiku-5-5", {"type": "enabled", "budget_tokens": 2_000}, {"type": "adaptive"}),
        (
            "claude-opus-5-5",
            {"type": "enabled", "budget_tokens": 2_000, "display": "omitted"},
            {"type": "adaptive", "display": "omitted"},
        ),
        ("claude-haiku-4-5", {"type": "adaptive"}, {"type": "enabled", "budget_tokens": 2_048}),
        ("claude-sonnet-5-5", {"type": "disabled"}, {"type": "between_tools"}),
        ("claude-haiku-5-5", {"type": "between_tools"}, {"type": "disabled"}),
        ("claude-fable-5-2", {"type": "disabled"}, None),
    ],
)
def test_thinking_becomes_what_the_model_has(target: str, asked: Any, becomes: Any) -> None:
    assert moved(target, thinking=asked) == {"thinking": becomes}


def test_a_request_without_thinking_goes_to_no_model_that_may_think_its_reply_away() -> None:
    """Opus 5.5 and Fable always think, and that counts towards max_tokens."""
    off = {"type": "disabled"}
    for target in ("claude-opus-5-5", "claude-fable-5-2"):
        assert refused(target, thinking=off, max_tokens=16) == ["thinking"]
        assert refused(target, thinking={"type": "between_tools"}, max_tokens=1_023) == ["thinking"]
        assert refused(target, thinks_unasked=False, max_tokens=1_023) == ["thinking"]
        assert moved(target, thinking=off, max_tokens=1_024) == {"thinking": None}
        assert moved(target, thinks_unasked=False, max_tokens=1_024) == {}
        assert moved(target, thinking=off, max_tokens=0) == {"thinking": None}, "nothing is to be written"
        assert moved(target, max_tokens=16) == {}, "the model that was asked does the same"


def test_what_is_not_thought_about_where_it_is_asked_is_not_where_it_goes() -> None:
    """Models think unasked since 5; a request to an older one says nothing of thinking and wants none."""
    asked = {"thinks_unasked": False, "max_tokens": 16}
    assert moved("claude-haiku-5-5", **asked) == {"thinking": {"type": "disabled"}}
    assert moved("claude-sonnet-5-5", **asked) == {"thinking": {"type": "between_tools"}}
    assert moved("claude-sonnet-4-6", **asked) == {}
    for target in ("claude-haiku-5-5", "claude-sonnet-5-5"):  # which both take it up to effort high only
        assert moved(target, **asked, effort="xhigh")["output_config.effort"] == "high"
    assert moved("claude-haiku-5-5", max_tokens=16) == {}


def test_the_simulator_knows_the_same_models_to_think_unasked() -> None:
    for model in SERVED:
        takes = capabilities_of(BY_NAME[model.id])
        assert takes is not None
        assert takes.thinks_unasked == model.thinks_unasked, model.id


def test_thinking_that_does_not_fit_is_not_moved() -> None:
    assert refused("claude-haiku-4-5", thinking={"type": "adaptive"}, max_tokens=1_500) == ["thinking"]
    assert refused("claude-haiku-5-5", thinking={"type": "telepathic"}) == ["thinking"]


def test_effort_is_lowered_to_what_the_model_has() -> None:
    assert moved("claude-opus-4-6", effort="xhigh") == {"output_config.effort": "high"}
    assert moved("claude-opus-4-6", effort="max") == {}
    assert moved("claude-opus-4-5", effort="max") == {"output_config.effort": "high"}
    assert moved("claude-haiku-4-5", effort="low") == {"output_config.effort": None}
    assert moved("claude-haiku-5-5", effort="xhigh") == {}
    off = {"type": "disabled"}
    assert moved("claude-haiku-5-5", effort="xhigh", thinking=off) == {"output_config.effort": "high"}
    assert refused("claude-haiku-5-5", effort="heroic") == ["effort"]


def test_sampling_parameters_and_speed_go_where_they_are_not_taken() -> None:
    sampling = ("temperature", "top_k")
    assert moved("claude-haiku-5-5", sampling=sampling) == {"temperature": None, "top_k": None}
    assert moved("claude-haiku-4-5", sampling=sampling) == {}
    assert moved("claude-haiku-5-5", speed="fast") == {"speed": None}
    assert moved("claude-opus-5", speed="fast") == {}


def test_what_cannot_be_moved_is_not() -> None:
    assert refused("claude-opus-5", signed_thinking=True) == ["signed_thinking"]
    assert refused("claude-haiku-5-5", prefill=True) == ["prefill"]
    assert refused("claude-sonnet-5-5", forced_tools=True) == ["forced_tools"]
    assert refused("claude-haiku-4-5", system_messages=True) == ["system_messages"]
    assert refused("claude-haiku-4-5", inference_geo="us") == ["inference_geo"]
    assert refused("claude-opus-5", bound_to_model=("computer use",)) == ["bound_to_model"]


def test_a_request_that_is_too_long_is_not_moved() -> None:
    assert refused("claude-haiku-4-5", prompt_tokens=199_000) == ["context"]
    assert refused("claude-haiku-5-5", prompt_tokens=199_000) == []
    assert moved("claude-haiku-4-5", max_tokens=128_000) == {"max_tokens": 64_000}
    assert refused("claude-haiku-4-5", max_tokens=128_000, structured_output=True) == ["max_tokens"]


def test_every_tier_has_a_model_of_its_own_family() -> None:
    assert [tier_of(BY_NAME[DEFAULT_TIERS[tier]]) for tier in TIERS] == list(TIERS)
    assert tier_of(BY_NAME["claude-mythos-5-2"]) == "fable"
    assert tier_of(BY_NAME["claude-2.1"]) is None
    assert tier_of(None) is None
