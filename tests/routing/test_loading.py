"""Live policies as a worker loads them: a router for each set of them, and none that breaks a key."""

import msgspec
import pytest

from governance.routing.document import Policy
from governance.routing.loading import Routers, Row
from tests.routing.making import facts, policy
from tests.routing.models import MODELS

CAPPED = policy({"then": {"max_tokens": {"cap": 500}}})


def row(number: int, scope: str, ref: str, document: Policy | str) -> Row:
    text = document if isinstance(document, str) else msgspec.json.encode(document).decode()
    return (number, 10 * number, scope, ref, text, {"research": 7}, None)


def test_keys_that_the_same_policies_reach_share_a_router() -> None:
    routers = Routers([row(1, "tenant", "", CAPPED), row(2, "team", "7", CAPPED)], MODELS)
    first, second = (routers.reaching(team_id=7, lineage_id=lineage) for lineage in (1, 2))
    assert first is second
    assert routers.reaching(team_id=8, lineage_id=3) is not first
    assert Routers([], MODELS).reaching(team_id=7, lineage_id=1) is None


def test_the_keys_policy_goes_before_the_teams_before_the_tenants() -> None:
    routers = Routers(
        [
            row(number, scope, ref, CAPPED)
            for number, scope, ref in ((1, "tenant", ""), (2, "key", "5"), (3, "team", "7"))
        ],
        MODELS,
    )
    router = routers.reaching(team_id=7, lineage_id=5)
    assert router is not None
    assert [each.policy_id for each in router.route(facts()).applied] == [2, 3, 1]


@pytest.mark.parametrize(
    "document",
    [
        '{"rules": []}',
        '{"rules": [{"name": "a", "then": {"new_action": 1}}]}',
        '{"rules": [{"name": "a", "then": {"fallbacks": [{}]}}]}',
        '{"rules": [{"name": "a", "when": {"time": {"zone": "Europe/Bonn"}}, "then": {"concise": true}}]}',
        '{"rules": [{"name": "a", "then": {"system": {"text": "x", "captures": {"n": "points"}}}}]}',
    ],
)
def test_a_policy_that_this_release_cannot_use_denies_and_says_what_to_do(document: str) -> None:
    routers = Routers([row(1, "tenant", "", document), row(2, "team", "7", CAPPED)], MODELS)
    router = routers.reaching(team_id=7, lineage_id=1)
    assert router is not None
    denied = router.route(facts()).deny
    assert denied is not None
    assert "Ask your administrator to publish it again" in denied
