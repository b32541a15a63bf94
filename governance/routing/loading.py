"""A tenant's live policies as the call path knows them: one router for each set that reaches keys."""

import logging
from collections.abc import Iterable, Sequence

import msgspec

from governance.pricing.rates import ModelFacts
from governance.routing.document import Actions, Policy, Rule
from governance.routing.router import Router, compile_router
from governance.routing.rules import CompiledInput

log = logging.getLogger(__name__)

UNREADABLE = Policy(
    rules=(
        Rule(
            name="unreadable policy",
            then=Actions(
                deny="A policy of this key was published by another release of Exchequer, which this one "
                "cannot read. Ask your administrator to publish it again, or to roll it back."
            ),
        ),
    )
)

LOAD_POLICIES = """
SELECT policy.id, version.id, policy.scope, policy.scope_ref, version.document::text,
       (SELECT coalesce(jsonb_object_agg(slug, id), '{}') FROM tenants_team team
        WHERE team.tenant_id = policy.tenant_id),
       CASE WHEN version.document::text LIKE '%%"keys"%%' THEN (
           SELECT coalesce(jsonb_agg(ids), '[]') FROM (
               SELECT array_agg(public_id) FROM tenants_apikey key WHERE key.tenant_id = policy.tenant_id
               GROUP BY lineage_id HAVING count(*) > 1) AS rotated (ids)) END
FROM routing_routingpolicy policy JOIN routing_policyversion version ON version.id = policy.live_id
WHERE policy.tenant_id = %s AND policy.enabled
"""
"""Rows for Routers; for any connection."""

type Row = tuple[int, int, str, str, str, dict[str, int], list[list[str]] | None]


class Routers:
    """The routers of one tenant at one moment, each compiled when the first key needs it.

    Keys that the same policies reach share one: with ten thousand keys under a tenant's policy there is one
    router. `models` are those of the price book.
    """

    def __init__(self, rows: Sequence[Row], models: Iterable[ModelFacts]) -> None:
        self._rows = {(scope, ref): (policy, version, text) for policy, version, scope, ref, text, *_ in rows}
        self._team_ids = rows[0][5] if rows else {}
        self._rotations = next((row[6] for row in rows if row[6] is not None), [])
        self._models = models
        self._routers: dict[tuple[int, ...], Router] = {}

    def reaching(self, *, team_id: int | None, lineage_id: int) -> Router | None:
        """The router of a key: its own policy's rules, its team's, its tenant's. None without any."""
        wanted = (("key", str(lineage_id)), ("team", str(team_id)), ("tenant", ""))
        found = [self._rows[where] for where in wanted if where in self._rows]
        if not found:
            return None
        versions = tuple(version for _, version, _ in found)
        if versions not in self._routers:
            self._routers[versions] = self._compiled([_read(*row) for row in found])
        return self._routers[versions]

    def _compiled(self, policies: Sequence[CompiledInput]) -> Router:
        """What passed an older release's checks and not this one's denies too, and breaks nothing else."""
        try:
            return compile_router(
                policies, models=self._models, team_ids=self._team_ids, rotations=self._rotations
            )
        except Exception:
            rows = [policy.version_id for policy in policies]
            log.exception("Policies of the version rows %s cannot be compiled; they deny every call.", rows)
            denying = [CompiledInput(each.policy_id, each.version_id, UNREADABLE) for each in policies]
            return compile_router(denying, models=self._models)


def _read(policy_id: int, version_id: int, document: str) -> CompiledInput:
    """What this release cannot read, because another one published it, denies every call: nobody knows what
    it forbids."""
    try:
        policy = msgspec.json.decode(document, type=Policy)
    except msgspec.ValidationError as error:
        log.error(
            "Policy %s, version row %s: this release cannot read it (%s); it denies every call.",
            policy_id,
            version_id,
            error,
        )
        policy = UNREADABLE
    return CompiledInput(policy_id, version_id, policy)
