"""What the operator refuses to everybody, and a key's own rules: which models, how much output.

Asked when the request was read, and once more of a call that has waited: what was settled meanwhile holds for
whatever has not been sent.
"""

from governance.gateway.authentication import check_again, check_pauses
from governance.gateway.bound import worst_case
from governance.gateway.charging import Promise
from governance.gateway.exchange import Exchange
from governance.gateway.model_list import check_models, models_asked
from governance.gateway.output_cap import capped


def check_policies(exchange: Exchange) -> None:
    """CallRefused for a call that its key may not make; `max_tokens` lowered to the key's cap."""
    key = exchange.key
    if key.tenant.operator_rules is not None:
        key.tenant.operator_rules.check(exchange.request, exchange.inbound.beta, key.tenant.book)
    if key.allowed_models:
        check_models(key.allowed_models, models_asked(exchange.request))
    _cap(exchange)


async def changed_meanwhile(exchange: Exchange) -> Promise | None:
    """None where nothing changed since the call's key was looked at. Otherwise the call goes on with the key
    as it stands now, and this is its worst case under it. CallRefused where it may not be made any more."""
    before = exchange.key
    now = await check_again(before, exchange.inbound.credentials, exchange.gateway.store)
    if now is before:
        return None
    check_pauses(now.pauses, exchange.tags)
    exchange.key = now
    rules = now.tenant.operator_rules
    if rules is not None and rules is not before.tenant.operator_rules:
        rules.check(exchange.request, exchange.inbound.beta, now.tenant.book)
    # What was allowed stays so, unless the list changed: a policy may have put another model in.
    if now.allowed_models and now.allowed_models != before.allowed_models:
        check_models(now.allowed_models, models_asked(exchange.request))
    _cap(exchange)
    return worst_case(exchange)


def _cap(exchange: Exchange) -> None:
    cap, request = exchange.key.max_output_tokens, exchange.request
    if cap is not None and request.max_tokens > cap:
        exchange.request = capped(request, cap)
        exchange.decision["max_tokens"] = cap
