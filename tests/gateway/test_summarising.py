"""What a history window takes away is summed up first: held, charged, recorded, once for a block of turns."""

import hashlib
import json
import secrets
from time import monotonic
from types import SimpleNamespace
from typing import Any

import httpx2
from django.conf import settings
from django.db import connection

from governance.gateway import asides, summarising
from governance.gateway.lookups import Lookups
from governance.gateway.request import read_request
from governance.gateway.rewrites.history import text_to_summarise
from governance.gateway.rewrites.rewriting import About, rewritten
from governance.gateway.summaries import Summaries
from governance.pricing.loading import load_book
from governance.routing.document import History
from governance.routing.route import Route
from governance.valkey.link import Link
from tests.gateway.asking import post, script
from tests.gateway.policies import govern
from tests.gateway.rewrites.bodies import chat
from tests.gateway.test_fallbacks import assert_sound
from tests.harness import Account, Stack, free_listener, make_tenant, start_stack
from tests.pricing.conftest import TODAY

TERMS = History(summarise=True)
MODEL = "claude-sonnet-5"


def summarise(account: Account, terms: str = "", rest: str = "") -> None:
    govern(account, f"rules: [{{name: Shorter, then: {{history: {{summarise: true {terms} }} {rest} }} }}]")


def conversation(messages: int, topic: str, **fields: Any) -> bytes:
    """About something that no other test speaks of."""
    return chat(messages, 60, model=MODEL, **fields).replace(b"Message ", f"{topic} ".encode())


def test_a_block_of_turns_has_one_summary_and_its_cost_is_in_the_first_calls(
    stack: Stack, account: Account
) -> None:
    topic = secrets.token_hex(6)
    summarise(account)
    for messages in (21, 23, 25):
        response = post(stack, account, conversation(messages, topic))
        assert response.status_code == 200
        assert response.headers["exchequer-rewrites"] == "history(-10)"
    calls = account.wait_for_calls(3)
    assert [call.decision["summarised"] for call in calls] == ["now", "before", "before"]
    assert [call.attempts for call in calls] == [2, 1, 1]
    first = account.attempts()[0]
    assert (first.number, first.purpose, first.served_model) == (1, "summarise", "claude-haiku-5-5")
    assert calls[0].decision["savings"]["overhead"] == -first.cost_nanos < 0
    for call in calls:
        assert call.baseline_nanos - call.cost_nanos == sum(call.decision["savings"].values())
    assert_sound(account)


def test_a_model_that_the_tenant_denies_is_not_asked_for_a_summary(stack: Stack, account: Account) -> None:
    govern(account, "rules: [{name: no Haiku, when: {tiers: [haiku]}, then: {deny: Not for us.}}]")
    govern(account, "rules: [{name: Shorter, then: {history: {summarise: true}}}]", scope="key")
    response = post(stack, account, conversation(21, secrets.token_hex(6)))
    assert response.headers["exchequer-rewrites"] == "history(-10)"
    (call,) = account.wait_for_calls(1)
    assert {attempt.requested_model for attempt in account.attempts()} == {MODEL}
    assert any("denies claude-haiku-5-5" in reason for reason in call.decision["policy"]["not_done"])


def test_the_summary_is_what_is_sent_in_the_first_message(stack: Stack, account: Account) -> None:
    summarise(account)
    raw = conversation(21, secrets.token_hex(6))
    response = post(stack, account, raw, headers=script(echo=True))
    arrived = json.loads(response.json()["content"][0]["text"])["body_sha256"]
    request = read_request(raw)
    book = load_book(connection)
    tenant: Any = SimpleNamespace(key=SimpleNamespace(tenant=SimpleNamespace(book=book)))
    question = asides.question(
        tenant,
        "claude-haiku-5-5",
        system=summarising.INSTRUCTION,
        text=f"<conversation>\n{text_to_summarise(request.fields, TERMS)}\n</conversation>",
        max_tokens=summarising.SUMMARY_TOKENS_MAX,
    )
    said = simulated(stack, question.body)
    sent = rewritten(request, Route(history=TERMS), About(book=book, at=TODAY, summary=said))
    assert said in json.loads(sent.request.body)["messages"][0]["content"]
    assert sha256(sent.request.body) == arrived


def test_no_room_for_a_summary_is_no_reason_to_refuse_a_call(stack: Stack) -> None:
    """The summary's worst case does not fit, the shorter call's does."""
    account = make_tenant("0.0016")
    summarise(account, ", keep_messages: 4", ", route: {model: claude-haiku-5-5}, max_tokens: {cap: 1}")
    response = post(stack, account, conversation(21, secrets.token_hex(600)))
    assert response.status_code == 200, response.text
    (call,) = account.wait_for_calls(1)
    assert call.attempts == 1
    assert call.decision["summarised"] == "not (budget_exhausted)"
    assert "not summarised" in " ".join(call.decision["policy"]["not_done"])
    assert_sound(account)


def test_a_dry_run_and_a_short_conversation_ask_for_no_summary(stack: Stack, account: Account) -> None:
    summarise(account)
    raw = conversation(21, secrets.token_hex(6))
    assert post(stack, account, raw, headers={"exchequer-dry-run": "true"}).status_code == 200
    assert post(stack, account, conversation(19, secrets.token_hex(6))).status_code == 200
    (call,) = account.wait_for_calls(1)
    assert (call.attempts, "summarised" in call.decision) == (1, False)


def test_two_tenants_with_one_conversation_have_a_summary_each(stack: Stack, account: Account) -> None:
    other, raw = make_tenant(), conversation(21, secrets.token_hex(6))
    for who in (account, other):
        summarise(who)
        assert post(stack, who, raw).status_code == 200
        (call,) = who.wait_for_calls(1)
        assert call.decision["summarised"] == "now"


def simulated(stack: Stack, body: bytes) -> str:
    """What the simulator answers to that very body."""
    assert stack.simulator is not None
    headers = {"x-api-key": "any", "anthropic-version": "2023-06-01"}
    answer = httpx2.post(f"{stack.simulator.url}/v1/messages", content=body, headers=headers)
    return asides.text_of(json.dumps(answer.json()["content"]).encode()).strip()


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def test_a_summary_that_fails_is_not_tried_again_at_once(account: Account) -> None:
    summarise(account)
    raw = conversation(21, secrets.token_hex(6))
    with start_stack(simulator_arguments=["--script", '{"fault": "reset_before_headers"}']) as stack:
        for _ in range(2):
            response = post(stack, account, raw, headers=script(text="Fine."))
            assert (response.status_code, response.json()["content"][0]["text"]) == (200, "Fine.")
    calls = account.wait_for_calls(2)
    assert [call.decision["summarised"] for call in calls] == ["not (no_answer)", "not (failed_lately)"]
    first = account.attempts()[0]
    assert (first.purpose, first.basis) == ("summarise", "full_hold")  # it may have been billed
    assert_sound(account)


def summaries_of(link: Link) -> Summaries:
    return Summaries(link, Lookups(link, lambda what: None))


async def test_the_first_summary_that_is_kept_is_everybodys_and_a_planted_one_nobodys() -> None:
    link, digest = Link(settings.REDIS_URL), secrets.token_bytes(16)
    summaries, others = summaries_of(link), summaries_of(link)
    assert await summaries.find(digest) is None
    assert await summaries.keep(digest, "Ducks.") == "Ducks."
    assert await others.keep(digest, "Geese.") == "Ducks."
    assert await others.find(digest) == "Ducks."
    sealed = await link.ask("GET", f"exchequer:summary:{digest.hex()}")
    assert b"Ducks" not in sealed
    moved = secrets.token_bytes(16)
    await link.ask("SET", f"exchequer:summary:{moved.hex()}", sealed)
    assert await summaries.find(moved) is None
    summaries.stop()


async def test_without_valkey_a_summary_serves_the_call_that_asked_for_it() -> None:
    summaries = summaries_of(Link("redis://127.0.0.1:1/0"))
    assert await summaries.find(b"digest") is None
    assert await summaries.keep(b"digest", "Ducks.") == "Ducks."
    assert await summaries.find(b"digest") == "Ducks."  # each turn would pay for another one
    summaries.stop()


async def test_a_valkey_that_is_silent_keeps_a_summary_waiting_as_long_as_a_look_up() -> None:
    with free_listener() as silent:
        silent.listen()
        summaries = summaries_of(Link(f"redis://127.0.0.1:{silent.getsockname()[1]}/0"))
        began = monotonic()
        assert await summaries.keep(b"digest", "Ducks.") == "Ducks."
        assert monotonic() - began < 0.5  # and not a second
        summaries.stop()
