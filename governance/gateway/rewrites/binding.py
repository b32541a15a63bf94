"""When system prompt and messages must stay as the client wrote them.

Newer models sign their thinking over the system prompt, the tools and every earlier message, and clients send
it back with the next turn. So a text is safe to add only where no signed thinking depends on it: none in the
history, which was signed over what was sent then, and none to come with this reply, which the next turn will
bring back while our rule may say something else by then.
"""

from governance.gateway.request import ABSENT, Body, value_of
from governance.gateway.rewrites.draft import NotDone, holds_signed_thinking
from governance.pricing.rates import ModelFacts
from governance.routing.capabilities import capabilities_of

SIGNS_NOT = frozenset(
    {
        "claude-fable-5",
        "claude-mythos-5",
        "claude-opus-5",
        "claude-opus-4-8",
        "claude-opus-4-7",
        "claude-opus-4-6",
        "claude-opus-4-5-20251101",
        "claude-sonnet-5",
        "claude-sonnet-4-6",
        "claude-sonnet-4-5-20250929",
        "claude-haiku-4-5-20251001",
    }
)
"""Models before signatures covered the conversation. Any other is taken to sign over it."""


def bound(fields: Body, model: ModelFacts | None) -> NotDone | None:
    """Why system and messages cannot change in a request to `model`; None where they can.

    A model that thinks unasked signs the first reply too. But a client that has sent a turn of the assistant
    without thinking does not send it back.
    """
    if holds_signed_thinking(fields):
        return NotDone("the conversation holds signed thinking, which is bound to everything before it")
    if model is not None and model.model_id in SIGNS_NOT:
        return None
    name = fields.model if model is None else model.model_id
    kind = value_of((fields.thinking or {}).get("type", ABSENT), str)
    if kind == "disabled" or (kind == "between_tools" and not fields.tools):
        return None
    if kind is not None:
        return NotDone(f"{name} signs its thinking over what it was sent, and the next turn brings that back")
    takes = capabilities_of(model) if model is not None else None
    thinks_unasked = takes is None or takes.thinks_unasked
    if thinks_unasked and not any(message.role == "assistant" for message in fields.messages):
        return NotDone(f"{name} thinks unasked and signs that over what it was sent")
    return None
