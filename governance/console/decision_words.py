"""What was decided of a call beside its policy, in words: of the names and codes in `Call.decision`."""

import re
from collections.abc import Mapping
from typing import Any

SHOWN_APART = {"refused", "rule", "policy", "prompt_cache", "response_cache", "savings"}

_TEXTS = {
    "model": ("Sent to", "{}"),
    "max_tokens": ("Output at most", "{} tokens"),
    "clamped_from": ("Lowered to fit the budget", "from {} tokens"),
    "clamp_floor": ("Not lowered further", "fewer than {} tokens may not be"),
    "waited_ms": ("Waited for room in a budget", "{} ms"),
    "queue_position": ("Place among those who waited", "{}"),
    "upstream_waited_ms": ("Waited for the Claude API's own limits", "{} ms"),
    "model_retires": ("The model retires on", "{}"),
    "conversation": ("Its conversation", "{} on its model"),
    "first_call": ("Same answer as the call", "{}"),
    "classified": ("How hard the message is", "{}"),
    "cascade": ("First answer not good enough", "{}"),
    "cascade_not": ("First answer kept, no better one", "{}"),
    "confidence": ("How sure it was of its answer", "{}"),
    "fallback_from": ("Could not answer, so another did", "{}"),
    "fallback_not": ("No fallback", "{}"),
    "degraded_from": ("Cheaper, for want of budget, than", "{}"),
    "degrade_not": ("Not made cheaper", "{}"),
    "summarised": ("Summary of what was cut", "{}"),
}
"""Name → (title, value); a name that is not here is shown as it is."""

_REASONS = {
    "refusal": "it refused",
    "truncation": "it was cut off at max_tokens",
    "json": "it was not the JSON that was asked for",
    "hedging": "it did not commit itself",
    "unsure": "less sure than the rule wants",
    "no_attempt_left": "no attempt or no time was left",
    "incompatible": "the request cannot be moved there safely",
    "not_cheaper": "it would cost no less",
    "model_not_allowed": "the key may not use it",
    "name_refused": "the operator refuses it",
    "budget_exhausted": "a budget had no room for it",
    "budget_held": "calls in flight held the room for it",
    "unreachable": "the Claude API was out of reach",
    "no_text": "there was no text",
    "no_label": "the answer was no label",
    "no_number": "the answer was no number",
    "no_answer": "there was no answer",
    "late": "the answer did not come in time",
    "failed_lately": "it failed a short while ago",
}
_BECAUSE = re.compile(r"(.+) \((\w+)\)")


def decision_words(decision: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(title, sentence) of each, those that are shown elsewhere left out."""
    return [_said(name, value) for name, value in sorted(decision.items()) if name not in SHOWN_APART]


def _said(name: str, value: Any) -> tuple[str, str]:
    title, form = _TEXTS.get(name, (name, "{}"))
    if name == "confidence" and isinstance(value, int):
        return title, f"{value} %"
    if isinstance(value, int) and not isinstance(value, bool):
        return title, form.format(f"{value:,}")
    if name == "summarised":
        value = {"now": "made for this call", "before": "made for an earlier call"}.get(value, value)
    if isinstance(value, str) and name in _TEXTS:
        value = "; ".join(_because(part) for part in value.split(", "))
    return title, form.format(value)


def _because(text: str) -> str:
    """“claude-opus-5-5 (budget_exhausted)” → “claude-opus-5-5: a budget had no room for it”."""
    found = _BECAUSE.fullmatch(text)
    if found is None:
        return text
    what, code = found.groups()
    why = f"the Claude API answered {code}" if code.isdigit() else _REASONS.get(code, code.replace("_", " "))
    return f"{'none' if what == 'not' else what}: {why}"
