"""Finding a budget, or whose pot is meant, by what a person types."""

from governance.budgets.models import Budget, Scope
from tenants.lookups import NotFound, find_key, find_team
from tenants.models import Tenant


def find_budget(tenant: Tenant, reference: str) -> Budget:
    """One of the tenant's open budgets, by id or by name. NotFound also where several have that name."""
    budgets = Budget.objects.filter(tenant=tenant, closed_at=None)
    found = list(budgets.filter(name=reference)[:2])
    if not found and reference.isdecimal() and len(reference) < 19:
        found = list(budgets.filter(pk=int(reference)))
    if not found:
        raise NotFound(f"{tenant.name} has no open budget with the name or id “{reference}”.")
    if len(found) > 1:
        raise NotFound(f"{tenant.name} has several budgets called “{reference}”; name one by its id.")
    budget: Budget = found[0]
    return budget


def subject_of(budget: Budget, text: str) -> str:
    """What a person writes for a pot → what its row is kept under: of a team or key the id of its row."""
    text = text.strip()
    if not text or budget.scope not in (Scope.TEAM, Scope.KEY):
        return text
    if budget.scope == Scope.TEAM:
        return str(find_team(budget.tenant, text).pk)
    key = find_key(text)
    if key.tenant_id != budget.tenant_id:
        raise NotFound(f"{budget.tenant.name} has no key “{text}”.")
    return str(key.lineage_id)
