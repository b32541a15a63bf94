"""A tenant's live policies as the call path knows them: one router for each set that reaches keys."""

import logging
from collections.abc import Iterable, Sequence

import msgspec

from governance.pricing.rates import ModelFacts
from governance.routing.document import Policy
from governance.routing.router import CompiledInput, Router, compile_router

log = logging.getLogger(__name__)

LOAD_POLICIES = """
SELECT policy.id, version.id, policy.scope, policy.scope_ref, version.document::text,
       (SELECT coalesce(jsonb_object_agg(slug, id), '{}') FROM tenants_team team
        WHERE team.tenant_id = policy.tenant_id)
FROM routing_routingpolicy policy JOIN routing_policyversion version ON version.id = policy.live_id
WHERE policy.tenant_id = %s AND policy.enabled
"""
"""Rows for Routers; for any connection."""

type Row = tuple[int, int, str, str, str, dict[str, int]]


class Routers:
    """The routers of one tenant at one moment, each compiled when the first key needs it.

    Keys that the same policies reach share one: with ten thousand keys under a tenant's policy there is one
    router. `models` are those of the price book.
    """

    def __init__(self, rows: Sequence[Row], models: Iterable[ModelFacts]) -> None:
        self._rows = {(scope, ref): (policy, version, text) for policy, version, scope, ref, text, _ in rows}
        self._team_ids = rows[0][5] if rows else {}
        self._models = models
        self._routers: dict[tuple[int, ...], Router | None] = {}

    def reaching(self, *, team_id: int | None, lineage_id: int) -> Router | None:
        """The router of a key: its own policy's rules, its team's, its tenant's. None without any."""
        wanted = (("key", str(lineage_id)), ("team", str(team_id)), ("tenant", ""))
        found = [self._rows[where] for where in wanted if where in self._rows]
        if not found:
            return None
        versions = tuple(version for _, version, _ in found)
        if versions not in self._routers:
            policies = [read for row in found if (read := _read(*row)) is not None]
            self._routers[versions] = self._compiled(policies)
        return self._routers[versions]

    def _compiled(self, policies: list[CompiledInput]) -> Router | None:
        if not policies:
            return None
        return compile_router(policies, models=self._models, team_ids=self._team_ids)


def _read(policy_id: int, version_id: int, document: str) -> CompiledInput | None:
    """None for what this release cannot read, which another release published: calls go without it, because
    a call without a policy is within its budgets still, and no call at all is worse."""
    try:
        return CompiledInput(policy_id, version_id, msgspec.json.decode(document, type=Policy))
    except msgspec.ValidationError as error:
        log.error(
            "Policy %s, version row %s: this release cannot read it (%s); calls go without it.",
            policy_id,
            version_id,
            error,
        )
        return None
