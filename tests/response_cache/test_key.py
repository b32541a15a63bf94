"""What makes two requests the same one."""

import inspect
import json
from typing import Any

import pytest

from governance.response_cache.key import DIGEST_BYTES, entry_digest
from governance.routing.document import Cascade, Target
from governance.routing.route import Ladder

TERMS: dict[str, Any] = {
    "secret": b"s" * 32,
    "tenant_id": 1,
    "scope_kind": "key",
    "scope_id": 7,
    "model": "claude-sonnet-5-5",
    "version": "2023-06-01",
    "betas": ["b", "a"],
    "headers": [("user-agent", "x"), ("anthropic-workspace-id", "w")],
    "query": "",
    "body": b'{"model":"m","messages":[{"role":"user","content":"Hello"}],"stream":true}',
    "volatile": (),
    "also": (),
    "account": 1,
    "ladder": None,
}
LADDER = Ladder("claude-haiku-5-5", "claude-opus-5-5", Cascade(Target(tier="haiku"), Target(tier="opus")))


def digest(**changes: Any) -> bytes:
    return entry_digest(**{**TERMS, **changes})


@pytest.mark.parametrize(
    "change",
    [
        {"secret": b"t" * 32},
        {"tenant_id": 2},
        {"volatile": ("metadata",)},
        {"scope_kind": "team"},
        {"scope_id": 8},
        {"model": "claude-opus-5-5"},
        {"version": "2026-10-21"},
        {"betas": ["a"]},
        {"headers": [("anthropic-workspace-id", "v")]},
        {"headers": []},
        {"query": "beta=true"},
        {"also": ("tool_use",)},
        {"also": ("thinking",)},
        {"ladder": LADDER},
        {"body": b'{"model":"m","messages":[{"role":"user","content":"hello"}]}'},
        {"body": b'{"model":"m","messages":[{"role":"user","content":"Hello "}]}'},
        {"body": b'{"model":"m","messages":[{"role": "user","content":"Hello"}]}'},
        {"body": b'{"model":"m","messages":[{"role":"user","content":"Hello"}],"metadata":{}}'},
    ],
)
def test_whatever_can_change_the_answer_makes_another_request(change: dict[str, Any]) -> None:
    assert digest(**change) != digest()


@pytest.mark.parametrize(
    "change",
    [
        {"betas": ("a", "b")},
        {"account": 2},
        {"headers": [("anthropic-workspace-id", "w"), ("x-stainless-os", "Linux")]},
        {"headers": [*TERMS["headers"], ("anthropic-beta", "seen in betas")]},
        {"body": b'{ "messages" : [{"role":"user","content":"Hello"}], "model": "m"}'},
        {"body": b'{"stream":false,"model":"m","messages":[{"role":"user","content":"Hello"}]}'},
    ],
)
def test_what_cannot_change_the_answer_makes_no_other_request(change: dict[str, Any]) -> None:
    assert digest(**change) == digest()
    assert len(digest()) == DIGEST_BYTES


def test_what_is_volatile_to_one_rule_is_not_taken_for_the_same_by_another() -> None:
    """A team's rule may not decide which answers the tenant's exact rule gives."""
    one, other = (
        b'{"model":"m","messages":[{"role":"user","content":"Hello"}]%b}' % more
        for more in (b"", b',"safeguards":{"a":"off"}')
    )
    lax = digest(body=other, volatile=("safeguards",))
    assert lax == digest(body=one, volatile=("safeguards",))
    assert lax != digest(body=one)


def test_signed_thinking_is_kept_for_the_account_that_signed_it() -> None:
    here, there = (digest(also=("tool_use", "thinking"), account=account) for account in (1, 2))
    assert here != there
    assert digest(also=("thinking", "tool_use")) == here


def test_no_value_can_pretend_to_be_two() -> None:
    one = {"a": "x", "b": "y"}
    other = {"a": 'x"\nb 3\n"y'}
    digests = {digest(body=json.dumps(body).encode()) for body in (one, other)}
    assert len(digests) == 2


def test_whose_entries_are_shared_has_no_default() -> None:
    """cases H3."""
    parameters = inspect.signature(entry_digest).parameters
    assert all(parameter.default is inspect.Parameter.empty for parameter in parameters.values())
    for name in ("tenant_id", "scope_kind", "scope_id"):
        with pytest.raises(TypeError, match=name):
            entry_digest(**{key: value for key, value in TERMS.items() if key != name})
