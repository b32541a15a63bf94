"""Move an API key to another team of its tenant, or out of its team."""

from typing import Any

from django.core.management.base import CommandParser

from tenants.keys import move_key
from tenants.lookups import find_key, find_team
from tenants.management.base import PlatformCommand


class Command(PlatformCommand):
    help = (
        "Move an API key, with all keys of its rotations, to another team: from now on its calls are charged "
        "to that team's budgets. What it spent stays where it was charged."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("id", help="the key's public id: the eight characters after exq_")
        whither = parser.add_mutually_exclusive_group(required=True)
        whither.add_argument("--team", help="slug or name")
        whither.add_argument("--no-team", action="store_true", help="the tenant's own, of no team")
        parser.add_argument("--reason", required=True, help="kept in the audit trail")

    def work(self, **options: Any) -> str:
        key = find_key(options["id"])
        team = find_team(key.tenant, options["team"]) if options["team"] else None
        moved = move_key(key, team, reason=options["reason"], actor=self.actor)
        keys = "1 key" if len(moved) == 1 else f"{len(moved)} keys, its rotations included,"
        return f"{key}: {keys} moved to {team or 'no team'}. Workers know within a second."
