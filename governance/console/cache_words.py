"""What the response cache made of a call, in words: from the call's own row."""

from typing import Any

from governance.calls.models import Call

REMEDIES = {
    "thinking": "also: [thinking]",
    "tool use": "also: [tool_use]",
    "too long": "reply_bytes_max",
}
"""Why an answer was not kept → what of a rule's `cache` has such answers kept."""


def cache_words(call: Call) -> dict[str, Any]:
    """Which rule keeps answers, why this one was not kept, and what would have it kept; "" where there is
    nothing to say."""
    about = call.decision.get("response_cache", {})
    not_kept = about.get("not_kept", "")
    return {"rule": about.get("rule", ""), "not_kept": not_kept, "remedy": REMEDIES.get(not_kept, "")}
