"""What the API refuses before it does any work, in its own words where they are known.

Lenient on purpose in one thing: body fields that are not known here pass, because clients learn new ones
before we do.
"""

from typing import Any

from governance.simulator.catalogue import Model, find_model
from governance.simulator.errors import invalid
from governance.simulator.signing import check_signatures

VERSIONS = ("2023-06-01", "2026-10-21")
SAMPLING_FIELDS = ("temperature", "top_p", "top_k")
BUDGET_TOKENS_MIN = 1024


def check_body(body: Any, version: str, *, counting: bool = False) -> Model:
    """The model that the body names, once the body is one that the API would accept. Raises ApiError."""
    if not isinstance(body, dict):
        raise invalid("The request body must be a JSON object.")
    for name in ("model", "messages") if counting else ("model", "max_tokens", "messages"):
        if name not in body:
            raise invalid(f"{name}: Field required")
    if not isinstance(body["model"], str):
        raise invalid("model: Input should be a valid string")
    model = find_model(body["model"])
    if not counting:
        _check_max_tokens(body, model)
    _check_messages(body["messages"], model)
    _check_system(body.get("system"))
    _check_options(body)
    _check_tools(body, model)
    _check_thinking(body, model)
    check_signatures(body, model.id)
    if version >= "2026-10-21":
        for name in SAMPLING_FIELDS:
            if name in body:
                raise invalid(f"{name}: Extra inputs are not permitted")
    if body.get("speed") == "fast" and not model.fast:
        raise invalid(f"speed: fast mode is not supported on {model.id}.")
    if body.get("inference_geo") is not None and not model.geo:
        raise invalid(f"inference_geo: not supported on {model.id}.")
    return model


def _check_max_tokens(body: dict[str, Any], model: Model) -> None:
    max_tokens = body["max_tokens"]
    if not isinstance(max_tokens, int) or isinstance(max_tokens, bool):
        raise invalid("max_tokens: Input should be a valid integer")
    if max_tokens < 0:
        raise invalid("max_tokens: Input should be greater than or equal to 0")
    if max_tokens > model.output_tokens_max:
        raise invalid(
            f"max_tokens: {max_tokens} > {model.output_tokens_max}, which is the maximum allowed number of "
            f"output tokens for {model.id}"
        )
    if not isinstance(body.get("stream", False), bool):
        raise invalid("stream: Input should be a valid boolean")
    if max_tokens == 0 and body.get("stream"):
        raise invalid("max_tokens: 0 cannot be combined with stream")


def _check_messages(messages: Any, model: Model) -> None:
    if not isinstance(messages, list):
        raise invalid("messages: Input should be a valid list")
    if not messages:
        raise invalid("messages: at least one message is required")
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            raise invalid(f"messages.{i}: Input should be an object")
        if message.get("role") not in ("user", "assistant", "system"):
            raise invalid(f"messages.{i}.role: Input should be 'user' or 'assistant'")
        content = message.get("content")
        if isinstance(content, str):
            continue
        if not isinstance(content, list):
            raise invalid(f"messages.{i}.content: Input should be a valid string or list")
        for j, block in enumerate(content):
            if not isinstance(block, dict) or not isinstance(block.get("type"), str):
                raise invalid(f"messages.{i}.content.{j}.type: Field required")
            if block["type"] == "text" and not block.get("text"):
                raise invalid("messages: text content blocks must be non-empty")
    if messages[-1]["role"] == "assistant" and not model.prefill:
        raise invalid(
            "This model does not support assistant message prefill. "
            "The conversation must end with a user message."
        )


def _check_system(system: Any) -> None:
    if system is None or isinstance(system, str):
        return
    if not isinstance(system, list):
        raise invalid("system: Input should be a valid string or list")
    for i, block in enumerate(system):
        if (
            not isinstance(block, dict)
            or block.get("type") != "text"
            or not isinstance(block.get("text"), str)
        ):
            raise invalid(f"system.{i}: Input should be a text block")


def _check_options(body: dict[str, Any]) -> None:
    stops = body.get("stop_sequences")
    if stops is not None and not (isinstance(stops, list) and all(isinstance(stop, str) for stop in stops)):
        raise invalid("stop_sequences: Input should be a valid list of strings")
    config = body.get("output_config")
    if config is not None and not isinstance(config, dict):
        raise invalid("output_config: Input should be an object")
    if config and config.get("format") is not None and not isinstance(config["format"], dict):
        raise invalid("output_config.format: Input should be an object")


def _check_tools(body: dict[str, Any], model: Model) -> None:
    tools = body.get("tools")
    if tools is not None:
        if not isinstance(tools, list):
            raise invalid("tools: Input should be a valid list")
        for i, tool in enumerate(tools):
            if not isinstance(tool, dict) or not (isinstance(tool.get("name"), str) or "type" in tool):
                raise invalid(f"tools.{i}.name: Field required")
            if tool.get("type", "custom") == "custom" and not isinstance(tool.get("input_schema"), dict):
                raise invalid(f"tools.{i}.input_schema: Field required")
    choice = body.get("tool_choice")
    if choice is None:
        return
    if not isinstance(choice, dict) or choice.get("type") not in ("auto", "any", "tool", "none"):
        raise invalid("tool_choice.type: Input should be 'auto', 'any', 'tool' or 'none'")
    if not tools:
        raise invalid("tool_choice may only be specified while providing tools")
    if choice["type"] in ("any", "tool") and not model.forced_tools:
        raise invalid(f"tool_choice: forced tool use is not supported on {model.id}.")
    if choice["type"] == "tool" and choice.get("name") not in [tool.get("name") for tool in tools]:
        raise invalid(f"Tool '{choice.get('name')}' not found in provided tools")


def _check_thinking(body: dict[str, Any], model: Model) -> None:
    thinking = body.get("thinking")
    if thinking is None:
        return
    kind = thinking.get("type") if isinstance(thinking, dict) else None
    if kind not in ("adaptive", "enabled", "disabled", "between_tools"):
        raise invalid("thinking.type: Input should be 'adaptive', 'enabled', 'disabled' or 'between_tools'")
    if kind not in model.thinking_types:
        raise invalid(f"thinking.type: '{kind}' is not supported on {model.id}.")
    if kind != "enabled":
        return
    budget = thinking.get("budget_tokens")
    if not isinstance(budget, int) or isinstance(budget, bool):
        raise invalid("thinking.enabled.budget_tokens: Field required")
    if budget < BUDGET_TOKENS_MIN:
        raise invalid("thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
    if body.get("max_tokens") is not None and budget >= body["max_tokens"]:
        raise invalid("`max_tokens` must be greater than `thinking.budget_tokens`.")
