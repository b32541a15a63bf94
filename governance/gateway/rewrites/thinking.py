"""No thinking where nobody asked for it: newer models think unless they are told not to."""

from governance.gateway.request import ABSENT, value_of
from governance.gateway.rewrites.draft import Draft, NotDone, holds_signed_thinking
from governance.pricing.rates import ModelFacts
from governance.routing.capabilities import EFFORTS, capabilities_of, least_thinking


def off(draft: Draft, model: ModelFacts | None) -> Draft | NotDone:
    """A request that says nothing of thinking, for `model`, says that it wants none. What a client says of
    thinking stays; NotDone where the model would think all the same."""
    fields = draft.fields
    if fields.thinking is not None:
        return NotDone("the request says itself how much is thought")
    takes = capabilities_of(model) if model is not None else None
    if model is None or takes is None:
        return NotDone(f"it is not known whether {fields.model} thinks unasked")
    if not takes.thinks_unasked:
        return draft
    if holds_signed_thinking(fields):
        return NotDone("the conversation holds thinking, and goes on as it began")
    mode = least_thinking(takes)
    if mode is None:
        return NotDone(f"{model.model_id} always thinks")
    if mode != "disabled" and fields.tools:
        return NotDone(f"{model.model_id} thinks between its uses of tools")
    effort, most = (
        value_of((fields.output_config or {}).get("effort", ABSENT), str),
        takes.disabled_effort_max,
    )
    if effort is not None and most is not None and effort not in EFFORTS[: EFFORTS.index(most) + 1]:
        return NotDone(f"{model.model_id} thinks at effort {effort[:40]}")
    return draft.with_value("thinking", {"type": mode})
