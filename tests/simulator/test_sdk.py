"""What the real SDK sees: it must not be able to tell the simulator from the API by its protocol."""

import json

import anthropic
import pytest

from governance.simulator.launch import RunningSimulator
from tests.simulator.asking import HELLO, MODEL, scripted

WEATHER = {
    "name": "weather",
    "description": "The weather in a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
    },
}


def test_a_reply_says_that_it_comes_from_a_simulator(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**HELLO)
    assert message.content[0].text == "This is the Exchequer simulator, not Claude. You said: “Hello”"
    assert (message.model, message.role, message.stop_reason) == (MODEL, "assistant", "end_turn")
    usage = message.usage
    assert (usage.service_tier, usage.inference_geo) == ("standard", "global")
    assert usage.cache_creation is not None
    assert usage.output_tokens > 0


def test_a_stream_adds_up_to_the_json_reply(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(**HELLO)
    with client.messages.stream(**HELLO) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_message()
    assert streamed.content[0].text == whole.content[0].text
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    assert streamed.usage.input_tokens == whole.usage.input_tokens
    assert kinds.count("content_block_delta") == len(whole.content[0].text) // 8
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])


def test_a_key_is_accepted_as_bearer_and_as_x_api_key(simulator: RunningSimulator) -> None:
    for header in ({"x-api-key": "sim-key"}, {"Authorization": "Bearer sim-key"}):
        with anthropic.Anthropic(auth_token="unused", base_url=simulator.url, max_retries=0) as client:
            received = client.messages.create(
                **HELLO,
                extra_headers={
                    "Authorization": anthropic.Omit(),
                    "anthropic-simulator": '{"echo":true}',
                    **header,
                },
            )
        headers = json.loads(received.content[0].text)["headers"]
        assert headers[next(iter(header)).lower()] == "…-key"
        assert len({"x-api-key", "authorization"} & headers.keys()) == 1


def test_a_forced_tool_is_called_with_input_that_fits_its_schema(client: anthropic.Anthropic) -> None:
    choice = {"type": "tool", "name": "weather"}
    message = client.messages.create(**HELLO, tools=[WEATHER], tool_choice=choice)
    assert message.stop_reason == "tool_use"
    assert message.content[-1].input == {"city": "simulated", "unit": "celsius"}
    with client.messages.stream(**HELLO, tools=[WEATHER], tool_choice=choice) as stream:
        streamed = stream.get_final_message()
    assert streamed.content[-1].input == message.content[-1].input
    assert streamed.content[-1].id == message.content[-1].id

    result = {"type": "tool_result", "tool_use_id": message.content[-1].id, "content": "12 °C"}
    conversation = [
        *HELLO["messages"],
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result]},
    ]
    answer = client.messages.create(model=MODEL, max_tokens=300, messages=conversation, tools=[WEATHER])
    assert answer.stop_reason == "end_turn"
    assert "12 °C" in answer.content[0].text


def test_tools_are_called_only_where_asked_or_scripted(client: anthropic.Anthropic) -> None:
    assert client.messages.create(**HELLO, tools=[WEATHER]).stop_reason == "end_turn"
    call = {"name": "weather", "input": {"city": "Bern"}}
    message = client.messages.create(**HELLO, tools=[WEATHER], **scripted(tool_use=call))
    assert message.content[-1].input == {"city": "Bern"}


def test_thinking_is_signed_counted_and_hidden_unless_asked_for(client: anthropic.Anthropic) -> None:
    hidden = client.messages.create(**HELLO, thinking={"type": "adaptive"})
    assert (hidden.content[0].type, hidden.content[0].thinking) == ("thinking", "")
    assert hidden.content[0].signature
    assert hidden.usage.output_tokens_details.thinking_tokens == 32
    with client.messages.stream(**HELLO, thinking={"type": "adaptive", "display": "summarized"}) as stream:
        shown = stream.get_final_message()
    assert shown.content[0].thinking
    assert shown.content[0].signature
    assert shown.usage.output_tokens == hidden.usage.output_tokens


def test_budgeted_thinking_works_where_the_model_takes_it(client: anthropic.Anthropic) -> None:
    asked = {**HELLO, "max_tokens": 4000, "thinking": {"type": "enabled", "budget_tokens": 2000}}
    message = client.messages.create(**{**asked, "model": "claude-opus-4-5"})
    assert message.content[0].thinking
    assert message.model == "claude-opus-4-5-20251101"
    with pytest.raises(anthropic.BadRequestError, match="not supported on claude-haiku-5-5"):
        client.messages.create(**asked)


def test_structured_output_fits_its_schema(client: anthropic.Anthropic) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 7}, "ok": {"type": "boolean"}},
    }
    config = {"format": {"type": "json_schema", "schema": schema}}
    message = client.messages.create(**HELLO, output_config=config)
    assert json.loads(message.content[0].text) == {"n": 7, "ok": True}


def test_max_tokens_and_stop_sequences_cut_the_reply(client: anthropic.Anthropic) -> None:
    short = client.messages.create(**{**HELLO, "max_tokens": 4})
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 4)
    stopped = client.messages.create(**HELLO, stop_sequences=["never", ", not"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", ", not")
    assert stopped.content[0].text == "This is the Exchequer simulator"
    warmed = client.messages.create(**{**HELLO, "max_tokens": 0})
    assert (warmed.stop_reason, warmed.content, warmed.usage.output_tokens) == ("max_tokens", [], 0)


def test_count_tokens_is_what_the_call_is_billed_for(client: anthropic.Anthropic) -> None:
    prompt = {
        "model": MODEL,
        "system": "Be brief. " * 40,
        "tools": [WEATHER],
        "messages": [
            {"role": "user", "content": "Grüße, 世界"},
            {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]},
            {"role": "user", "content": [{"type": "text", "text": "Go on"}]},
        ],
    }
    counted = client.messages.count_tokens(**prompt).input_tokens
    assert counted == client.messages.create(max_tokens=10, **prompt).usage.input_tokens


def test_the_models_are_listed_in_pages_and_one_by_one(client: anthropic.Anthropic) -> None:
    paged = [model.id for model in client.models.list(limit=5)]
    assert len(paged) == len(set(paged)) == 18
    opus = client.models.retrieve("claude-opus-5-5")
    assert (opus.max_input_tokens, opus.max_tokens, opus.line) == (1_000_000, 128_000, "opus")
    assert opus.capabilities.thinking.types.disabled.supported is False
    assert client.models.retrieve("claude-sonnet-4-5").lifecycle == "deprecated"
    backwards = client.models.list(before_id=paged[7], limit=3)
    assert [model.id for model in backwards.data] == paged[4:7]


@pytest.mark.parametrize(
    ("error_type", "status", "exception"),
    [
        ("invalid_request_error", 400, anthropic.BadRequestError),
        ("authentication_error", 401, anthropic.AuthenticationError),
        ("billing_error", 402, anthropic.PaymentRequiredError),
        ("permission_error", 403, anthropic.PermissionDeniedError),
        ("not_found_error", 404, anthropic.NotFoundError),
        ("request_too_large", 413, anthropic.ContentTooLargeError),
        ("rate_limit_error", 429, anthropic.RateLimitError),
        ("api_error", 500, anthropic.InternalServerError),
        ("timeout_error", 504, anthropic.GatewayTimeoutError),
        ("overloaded_error", 529, anthropic.OverloadedError),
    ],
)
def test_an_error_has_the_documented_status_and_class(
    client: anthropic.Anthropic, error_type: str, status: int, exception: type[anthropic.APIStatusError]
) -> None:
    with pytest.raises(exception) as raised:
        client.messages.create(**HELLO, **scripted(error={"type": error_type}))
    error = raised.value
    assert (error.status_code, error.type) == (status, error_type)
    assert error.request_id == error.body["request_id"]
    assert error.request_id.startswith("req_01")


def test_the_sdk_retries_an_overload_until_it_is_over(simulator: RunningSimulator, tag: str) -> None:
    overload = {"type": "overloaded_error", "retry_after": 0.01, "times": 2}
    script = scripted(id=tag, tag=tag, error=overload)
    with anthropic.Anthropic(api_key="sim", base_url=simulator.url) as client:
        client.messages.create(**HELLO, **script)
    [charge] = simulator.charges(tag)  # the two refusals cost nothing
    assert charge["retry_count"] == "2"


def test_should_retry_false_stops_the_sdk_at_once(simulator: RunningSimulator, tag: str) -> None:
    refusal = {"type": "rate_limit_error", "retry_after": 37800, "should_retry": False, "times": 1}
    script = scripted(id=tag, tag=tag, error=refusal)
    with anthropic.Anthropic(api_key="sim", base_url=simulator.url) as client:
        with pytest.raises(anthropic.RateLimitError):
            client.messages.create(**HELLO, **script)
        assert simulator.charges(tag) == []
        client.messages.create(**HELLO, **script)


def test_an_error_code_picks_the_exception_class(client: anthropic.Anthropic) -> None:
    error = {"type": "rate_limit_error", "error_code": "enforced_spend_limit_reached"}
    with pytest.raises(anthropic.RateLimitError) as raised:
        client.messages.create(**HELLO, **scripted(error=error))
    assert raised.value.error_code == "enforced_spend_limit_reached"
    assert type(raised.value) is not anthropic.RateLimitError


def test_an_error_after_http_200_reaches_the_reader_of_the_stream(client: anthropic.Anthropic) -> None:
    received: list[str] = []

    def read() -> None:
        with client.messages.stream(**HELLO, **scripted(fault={"error_event_after": 3})) as stream:
            for event in stream:
                received.append(event.type)

    with pytest.raises(anthropic.APIStatusError) as raised:
        read()
    assert raised.value.type == "overloaded_error"
    assert received.count("content_block_delta") == 3
