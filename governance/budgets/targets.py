"""What a budget is on: what a person writes → what the row keeps, or a sentence that says what is wrong."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from django.core.exceptions import ValidationError
from django.db.models import Q

from governance.budgets.models import Scope
from governance.budgets.subjects import SUBJECT_NAMES, TIERS, subject_text
from governance.pricing.models import KnownModel
from tenants.models import ApiKey, Team, Tenant
from tenants.validators import validate_tag_name, validate_text


class BudgetRefused(ValueError):
    """A budget that cannot be set; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """`ref` is what Budget.scope_ref keeps; `name` is for people."""

    ref: str
    name: str


def find_target(tenant: Tenant, scope: str, ref: str, *, each: bool) -> Target:
    """The scope's reference in its kept form. BudgetRefused where the tenant has no such thing.

    `ref`: the id of a team's or key's row, an end user, a session, "name=value" of a tag; with `each`
    nothing, or the name of the tag. Run in the tenant's scope.
    """
    if each:
        return _each(tenant, scope, ref)
    if scope == Scope.TENANT:
        if ref:
            raise BudgetRefused("A budget on the whole tenant names nothing else; leave the reference out.")
        return Target("", tenant.name)
    if not ref:
        what = SUBJECT_NAMES.get(scope, "team, key, end user, tag or session")
        raise BudgetRefused(f"Say which {what} the budget is on, or set it on each of them.")
    if scope == Scope.TEAM:
        team = Team.objects.filter(tenant=tenant, pk=ref).first() if ref.isdecimal() else None
        if team is None:
            raise BudgetRefused(f"{tenant.name} has no team with the id “{ref}”; create it first.")
        return Target(str(team.pk), team.name)
    if scope == Scope.KEY:
        key = ApiKey.objects.filter(tenant=tenant, pk=ref).first() if ref.isdecimal() else None
        if key is None:
            raise BudgetRefused(f"{tenant.name} has no key with the id “{ref}”; issue it first.")
        return Target(str(key.lineage_id), key.name)
    if scope == Scope.TAG:
        return _tag_value(ref)
    if scope in (Scope.END_USER, Scope.SESSION):
        _check_text(ref)
        return Target(subject_text(ref), ref)
    raise BudgetRefused(f"“{scope}” is no scope; use one of {', '.join(Scope.values)}.")


def find_models(names: Sequence[str]) -> list[str]:
    """Model ids and tiers, sorted, aliases resolved. BudgetRefused for a name that no price has."""
    found = {name for name in names if name in TIERS}
    for name in set(names) - found:
        known = KnownModel.objects.filter(Q(model_id=name) | Q(aliases__contains=[name]), superseded_in=None)
        model = known.first()
        if model is None:
            raise BudgetRefused(
                f"“{name}” is neither a model with a price nor a tier; tiers are {', '.join(TIERS)}."
            )
        found.add(model.model_id)
    return sorted(found)


def _each(tenant: Tenant, scope: str, ref: str) -> Target:
    if scope not in SUBJECT_NAMES:
        raise BudgetRefused(f"A budget on each {scope} cannot be; use each with {', '.join(SUBJECT_NAMES)}.")
    if scope == Scope.TAG:
        if not ref or "=" in ref:
            raise BudgetRefused("Name the tag whose values get a pot each, such as feature, without a value.")
        _check_tag_name(ref)
        return Target(ref, f"Each {ref}")
    if ref:
        raise BudgetRefused(f"A budget on each {SUBJECT_NAMES[scope]} names none of them; leave it out.")
    return Target("", f"Each {SUBJECT_NAMES[scope]}")


def _tag_value(ref: str) -> Target:
    name, equals, value = ref.partition("=")
    name, value = name.strip(), value.strip()
    if not equals or not value:
        raise BudgetRefused(f"“{ref}” is not a tag; write it like feature=search, or use each with its name.")
    _check_tag_name(name)
    _check_text(value)
    return Target(f"{name}={subject_text(value)}", f"{name}={value}")


def _check_tag_name(name: str) -> None:
    _refuse_invalid(validate_tag_name, name)


def _check_text(text: str) -> None:
    _refuse_invalid(validate_text, text)


def _refuse_invalid(validate: Callable[[str], None], text: str) -> None:
    try:
        validate(text)
    except ValidationError as error:
        raise BudgetRefused(" ".join(error.messages)) from None
