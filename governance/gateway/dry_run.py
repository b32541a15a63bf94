"""`exchequer-dry-run: true`: what would become of this very request. Nothing is sent, held or recorded.

    {"type": "dry_run",
     "model": {"asked": …, "sent": …},         "why": the sentence of the rule that chose it,
     "policy": {"applied": […], "rewrites": […], "not_done": […],
                "depends_on": sentences about what is known only once the call is made},
     "max_tokens": of the request that would be sent,
     "bound": {"kind": bounded | assumed | unbounded, "usd": what would be held},
     "estimate": {"input_tokens": about, "input_usd": …, "usd_per_1000_output_tokens": …},
     "budgets": [{"name": …, "period": …, "resets_at": …}], "budget_used_percent": of the fullest one}

A classifier is not asked, since that would cost something: the route is the one without its label. Nor is the
response cache looked up, or the prompt marked and seen by the prompt cache, or the conversation begun.
`depends_on` names these and the models that a cascade, a fallback or a full budget would lead to. Where a
policy would answer by itself nothing would be sent: `model.sent` is null, and all amounts are zero.
"""

from typing import TYPE_CHECKING, Any

import msgspec

from governance.core.clock import utcnow
from governance.core.money import nanos_to_usd
from governance.core.usage import Pass, Usage
from governance.gateway.callers import legs_of
from governance.gateway.classifying import NOT_ASKED
from governance.gateway.left_open import left_open
from governance.gateway.rate_limits import BYTES_PER_TOKEN
from governance.gateway.responses import PRIVATE, GatewayResponse

if TYPE_CHECKING:
    from governance.gateway.charging import Promise
    from governance.gateway.exchange import Exchange


async def report(exchange: "Exchange", promise: "Promise | None") -> GatewayResponse:
    """The response. `promise`: the worst case of the request that would be sent; None where none would be."""
    request, policy = exchange.request, exchange.decision.get("policy", {})
    tokens = len(request.body) // BYTES_PER_TOKEN
    body = msgspec.json.encode(
        {
            "type": "dry_run",
            "model": {"asked": exchange.requested_model, "sent": request.model if promise else None},
            "why": policy.get("why", "No policy reaches this key, so the call goes as asked."),
            "policy": {
                **{name: policy.get(name, []) for name in ("applied", "rewrites", "not_done")},
                "depends_on": _depends_on(exchange) if promise else [],
            },
            "max_tokens": request.max_tokens,
            "bound": {
                "kind": exchange.bound if promise else "bounded",
                "usd": nanos_to_usd(promise.held_nanos if promise else 0),
            },
            "estimate": {
                "input_tokens": tokens if promise else 0,
                "input_usd": _usd(promise, request.model, Usage(tokens)),
                "usd_per_1000_output_tokens": _usd(promise, request.model, Usage(output_tokens=1000)),
            },
            "budgets": _budgets(exchange),
            "budget_used_percent": await exchange.gateway.budget_use.percent(exchange),
        }
    )
    exchange.gateway.metrics.calls["dry_run", "dry_run"] += 1
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *PRIVATE,
        (b"request-id", str(exchange.id).encode()),
        (b"exchequer-dry-run", b"true"),
    ]
    return GatewayResponse(200, headers, body)


def _depends_on(exchange: "Exchange") -> list[str]:
    if exchange.route is None:
        return []
    return left_open(
        exchange.route,
        exchange.request,
        exchange.key.tenant.book,
        asks_label=exchange.decision.get("classified") == f"not ({NOT_ASKED})",
        cache_control=exchange.inbound.cache_control,
    )


def _usd(promise: "Promise | None", model: str, usage: Usage) -> str:
    if promise is None:
        return nanos_to_usd(0)
    return nanos_to_usd(promise.book.rate((Pass(model, usage),), promise.at).cost_nanos)


def _budgets(exchange: "Exchange") -> list[dict[str, Any]]:
    now = utcnow()
    return [
        {
            "name": leg.title,
            "period": leg.budget.period,
            "resets_at": None if leg.budget.period == "total" else leg.budget.period_at(now).ends_at,
        }
        for leg in legs_of(exchange)
    ]
