"""Claude Code's traffic through a policy with routing and injection: no 400, no lost thinking, one model.

The simulator signs thinking over tools, system prompt and all earlier messages, and refuses it elsewhere.
"""

import hashlib
import json
import secrets
from typing import Any

import pytest

from tests.gateway.asking import post, script
from tests.gateway.policies import govern
from tests.gateway.rewrites.bodies import claude_code
from tests.harness import Account, Stack

OPUS, SONNET, HAIKU = "claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5"
TURNS = 6
EVERYTHING = """
    rules:
      - name: Agents on Sonnet, in the beginning
        when: {turn: first}
        then: {route: {tier: sonnet}}
      - name: Long ones on Haiku
        when: {turn: later}
        then: {route: {tier: haiku}}
      - name: All that can be saved
        then:
          prompt_cache: true
          concise: true
          history: {above_messages: 6, keep_messages: 2}
          max_tokens: {cap: 32000}
          system: {text: Answer in English.}
"""
CODING = """
    rules:
      - name: Code is written by Sonnet
        when: {turn: first}
        then: {route: {model: claude-sonnet-5-5}}
      - name: Prompts are cached
        then: {prompt_cache: true, concise: true}
"""


def first_request(**fields: Any) -> dict[str, Any]:
    """As Claude Code begins: its context, nothing said yet."""
    body: dict[str, Any] = json.loads(claude_code(turns=1, kilobytes=4, **fields))
    body["messages"] = body["messages"][:2]
    return {**body, "stream": False}


def without_marks(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_marks(inner) for name, inner in value.items() if name != "cache_control"}
    return [without_marks(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("marks", ["its own", "none"])
def test_an_agents_session_survives_every_rewrite_on_one_model(
    stack: Stack, account: Account, marks: str
) -> None:
    govern(account, EVERYTHING)
    body = first_request()
    if marks == "none":
        body = without_marks(body)
    header = script(thinking=200, tool_use={"name": "tool_3", "input": {"path": "/a.py"}})
    models = []
    for turn in range(TURNS):
        response = post(stack, account, body, headers=header)
        assert response.status_code == 200, (turn, response.text)
        message = response.json()
        models.append(message["model"])
        kinds = [block["type"] for block in message["content"]]
        assert kinds == ["thinking", "text", "tool_use"]
        call = message["content"][-1]["id"]
        result = {"type": "tool_result", "tool_use_id": call, "content": f"line {turn}\n" * 400}
        body["messages"] += [
            {"role": "assistant", "content": message["content"]},
            {"role": "user", "content": [result]},
        ]
    assert set(models) == {SONNET}
    calls = account.wait_for_calls(TURNS)
    assert [call.requested_model for call in calls] == [OPUS] * TURNS
    assert {call.outcome for call in calls} == {"served"}
    later = calls[-1].decision["policy"]
    assert any(sentence.startswith(("history", "system", "concise")) for sentence in later["not_done"])


def test_what_claude_code_sends_arrives_byte_for_byte_but_for_the_model(
    stack: Stack, account: Account
) -> None:
    """As a stream, with a session, and context and marks of its own."""
    govern(account, CODING)
    session = {"x-claude-code-session-id": f"session-{secrets.token_hex(4)}"}
    for turns in (0, 1, 2, 3):
        raw = claude_code(turns=turns, kilobytes=20)
        response = post(stack, account, raw, headers=session | script(echo=True))
        assert response.status_code == 200, response.text
        assert response.headers["exchequer-model"] == SONNET
        assert response.headers["exchequer-rewrites"] == "model"
        expected = raw.replace(b'"model":"claude-opus-5-5"', b'"model":"claude-sonnet-5-5"')
        assert sha256_that_arrived(response.text) == hashlib.sha256(expected).hexdigest()
    calls = account.wait_for_calls(4)
    assert {call.served_model for call in calls} == {SONNET}
    last = calls[-1].decision["policy"]["not_done"]
    assert any("prompt-cache: the client marks its own prompt" in reason for reason in last)
    assert any("concise: the conversation holds signed thinking" in reason for reason in last)


def test_agents_of_one_session_that_ask_for_other_models_are_other_conversations(
    stack: Stack, account: Account
) -> None:
    govern(account, CODING)
    session = {"x-claude-code-session-id": f"session-{secrets.token_hex(4)}"}
    assert post(stack, account, claude_code(turns=0, kilobytes=2), headers=session).status_code == 200
    helper = claude_code(turns=1, kilobytes=2, model=HAIKU)
    response = post(stack, account, helper, headers=session)
    assert (response.status_code, response.headers["exchequer-model"]) == (200, HAIKU)


def sha256_that_arrived(text: str) -> str:
    """Of the body, by the simulator's echo in the text deltas of a stream."""
    said = "".join(
        json.loads(line[6:])["delta"].get("text", "")
        for line in text.splitlines()
        if line.startswith('data: {"type":"content_block_delta"') or '"content_block_delta"' in line[:60]
    )
    return str(json.loads(said)["body_sha256"])


def test_the_detector_works_a_request_whose_history_was_cut_is_refused(
    stack: Stack, account: Account
) -> None:
    """Twin: what the rewrites must not do gets the API's 400 from the simulator."""
    body = first_request(model=SONNET)
    message = post(stack, account, body, headers=script(thinking=200)).json()
    said = [{"role": "assistant", "content": message["content"]}, {"role": "user", "content": "Go on."}]
    assert post(stack, account, {**body, "messages": body["messages"] + said}).status_code == 200
    for broken in (
        {**body, "messages": [{"role": "user", "content": "Another beginning."}, *said]},
        {**body, "messages": body["messages"] + said, "system": "Another prompt."},
        {**body, "messages": body["messages"] + said, "tools": body["tools"][:3]},
    ):
        response = post(stack, account, broken)
        assert response.status_code == 400
        assert "Invalid signature in thinking block" in response.text
