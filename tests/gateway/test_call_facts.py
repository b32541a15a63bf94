"""What a call's row keeps of its request: shape and fingerprints, never text."""

from governance.calls.request_facts import Fingerprints
from tests.gateway.asking import ASK, post, script
from tests.harness import Account, Stack, make_tenant, start_stack


def test_a_call_keeps_the_shape_of_its_request_and_no_text(stack: Stack, account: Account) -> None:
    secret = "the merger with Initech closes on Friday"
    ask = {**ASK, "system": "Be brief.", "messages": [{"role": "user", "content": secret}]}
    headers = {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "user-agent": "Mine/1.0"}
    assert post(stack, account, ask, headers=headers).status_code == 200
    assert post(stack, account, ask | {"stream": True}).status_code == 200
    call, again = account.wait_for_calls(2)
    assert call.facts["n"]["msg"] == 1
    assert call.facts["bytes"]["last"] > len(secret)
    assert (call.traceparent, call.user_agent) == (headers["traceparent"], "Mine/1.0")
    mine, other = (
        Fingerprints.unpack(bytes(call.fingerprints)),
        Fingerprints.unpack(bytes(again.fingerprints)),
    )
    assert mine.messages == other.messages
    assert any(mine.reply)
    assert len(bytes(call.cache_digest)) == 32
    row = str(vars(call)) + str(vars(account.attempts()[0]))
    assert "Initech" not in row
    assert "merger" not in row


def test_the_same_request_of_another_tenant_has_other_fingerprints(stack: Stack, account: Account) -> None:
    bob = make_tenant()
    for who in (account, bob):
        assert post(stack, who).status_code == 200
    mine, his = account.wait_for_calls(1)[0], bob.wait_for_calls(1)[0]
    assert mine.cache_digest != his.cache_digest
    ours = Fingerprints.unpack(bytes(mine.fingerprints)), Fingerprints.unpack(bytes(his.fingerprints))
    assert ours[0].messages != ours[1].messages


def test_a_large_request_has_its_facts_too(stack: Stack, account: Account) -> None:
    ask = {**ASK, "messages": [{"role": "user", "content": "word " * 200_000}]}
    slow = script(latency_ms=400)  # they are computed while upstream works, which takes a model seconds
    assert post(stack, account, ask, headers=slow).status_code == 200
    (call,) = account.wait_for_calls(1)
    assert call.facts["bytes"]["last"] > 1_000_000


def test_an_open_stream_keeps_its_facts_and_not_its_request(account: Account) -> None:
    """Agents stream for minutes: what they sent must not fill the memory that others' requests need."""
    large = {**ASK, "stream": True, "messages": [{"role": "user", "content": "word " * 10_000}]}
    env = {"EXCHEQUER_BODY_BYTES_PER_TENANT_MAX": "80000"}
    slow = script(deltas=4, chunk_delay_ms=500)
    with start_stack(env=env) as stack, account.client(stack) as client:
        with client.messages.create(**large, extra_headers=slow) as open_stream:
            assert next(iter(open_stream)).type == "message_start"
            assert post(stack, account, {**large, "stream": False}).status_code == 200
            assert [event.type for event in open_stream][-1] == "message_stop"
        streamed = next(call for call in account.wait_for_calls(2) if call.stream)
    assert streamed.facts["bytes"]["last"] > 50_000
    assert len(Fingerprints.unpack(bytes(streamed.fingerprints)).messages) == 1
    assert streamed.requested_model == large["model"]


def test_a_call_says_what_its_client_saved_by_the_prompt_cache(stack: Stack, account: Account) -> None:
    """The first call pays the premium of writing, the second reads: layers add up to baseline less cost."""
    prompt = [{"type": "text", "text": "Know this. " * 2_000, "cache_control": {"type": "ephemeral"}}]
    for _ in range(2):
        assert post(stack, account, {**ASK, "system": prompt}).status_code == 200
    wrote, read = account.wait_for_calls(2)
    for call in (wrote, read):
        assert call.decision["savings"] == {"client_cache": call.baseline_nanos - call.cost_nanos}
    assert wrote.baseline_nanos == read.baseline_nanos
    assert wrote.decision["savings"]["client_cache"] < 0 < read.decision["savings"]["client_cache"]


def test_a_call_that_saved_nothing_says_nothing(stack: Stack, account: Account) -> None:
    assert post(stack, account).status_code == 200
    (call,) = account.wait_for_calls(1)
    assert (call.baseline_nanos, call.decision) == (call.cost_nanos, {})
