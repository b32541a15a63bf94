"""What an operator decides about calls whose price is in doubt. Each decision is audited.

Gateway workers learn of it within a second: a trigger on the tables bumps the version of every tenant.
"""

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models.functions import Now

from governance.audit import events
from governance.pricing.models import BrokenBound, RefusedName


def refuse_name(kind: str, name: str, reason: str, actor: events.Actor | None = None) -> RefusedName:
    """From now on every call that uses the name is refused, and told the reason. ValidationError."""
    refused = RefusedName(kind=kind, name=name.strip(), reason=reason.strip())
    refused.full_clean()
    with transaction.atomic():
        refused.save()
        events.record(actor, None, "name.refuse", refused, after=_facts(refused))
    return refused


def allow_name(refused: RefusedName, actor: events.Actor | None = None) -> None:
    """Calls may use the name again."""
    with transaction.atomic():
        events.record(actor, None, "name.allow", refused, before=_facts(refused))
        refused.delete()


def clear_broken_bound(broken: BrokenBound, reason: str, actor: events.Actor | None = None) -> None:
    """Let such calls pass again. `reason` says what was found out. ValidationError where that is missing, or
    where somebody else cleared it."""
    reason = reason.strip()
    if not reason:
        raise ValidationError("Say what you found out: the next person will want to know.")
    with transaction.atomic():
        cleared = BrokenBound.objects.filter(pk=broken.pk, cleared_at=None).update(
            cleared_at=Now(), cleared_because=reason[:300]
        )
        if not cleared:
            raise ValidationError("It was cleared already.")
        events.record(actor, None, "broken_bound.clear", broken, after={"reason": reason[:300]})


def _facts(refused: RefusedName) -> dict[str, object]:
    return {"kind": refused.kind, "name": refused.name, "reason": refused.reason}
