"""Models that live policies send calls to and that will not be there for long."""

from datetime import date
from typing import Any

from governance.routing.drafts import as_document
from governance.routing.retiring import retiring
from tests.routing.making import policy
from tests.routing.models import MODELS

BEFORE, SOON, AFTER = date(2026, 9, 1), date(2026, 11, 1), date(2026, 11, 30)
OLD = "claude-sonnet-4-5-20250929"  # retires on 2026-11-30


def of(*rules: dict[str, Any], today: date = SOON, **others: Any) -> list[str]:
    return [model.model_id for model in retiring(as_document(policy(*rules, **others)), MODELS, today)]


def test_a_policys_retiring_models_are_found_wherever_it_names_them() -> None:
    for then in (
        {"route": {"model": "claude-sonnet-4-5"}},
        {"route": {"classify": {"simple": {"tier": "haiku"}, "otherwise": {"model": OLD}}}},
        {"route": {"cascade": {"first": {"tier": "haiku"}, "then": {"model": OLD}}}},
        {"fallbacks": [{"tier": "opus"}, {"model": OLD}]},
        {"on_exhausted": {"model": OLD}},
    ):
        assert of({"then": then}) == [OLD]
        assert of({"then": then}, today=BEFORE) == []
        assert of({"then": then}, today=AFTER) == [OLD]
    to_sonnet = {"then": {"route": {"tier": "sonnet"}}}
    assert of(to_sonnet) == []
    assert of(to_sonnet, tiers={"sonnet": "claude-sonnet-4-5"}) == [OLD]


def test_what_a_rule_asks_about_a_retiring_model_is_no_call_to_it() -> None:
    schema = {"type": "object", "properties": {"x": {"const": {"model": OLD}}}}
    assert of({"when": {"models": [OLD]}, "then": {"json_output": {"schema": schema}}}) == []
