"""Issue an API key and print it once."""

import json
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandParser

from governance.core.clock import utcnow
from governance.core.money import usd_to_nanos
from tenants.keys import issue_key
from tenants.lookups import find_team, find_tenant
from tenants.management.base import PlatformCommand


class Command(PlatformCommand):
    help = "Issue an API key; its text is printed now and never again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", required=True, help="slug or name")
        parser.add_argument("--name", required=True, help="what the key is for")
        parser.add_argument("--team", help="slug or name")
        parser.add_argument("--expires-days", type=float, help="refuse the key after so many days")
        parser.add_argument(
            "--hold-wait-seconds",
            type=int,
            default=10,
            help="how long a call waits for room in a budget; 0: not",
        )
        parser.add_argument(
            "--max-output-tokens", type=int, help="the largest max_tokens that a call may ask"
        )
        parser.add_argument(
            "--clamp-floor-tokens",
            type=int,
            help="let a call that does not fit be made with fewer max_tokens, but not with fewer than this",
        )
        parser.add_argument(
            "--burn-usd-per-10-minutes-max",
            type=usd_to_nanos,
            metavar="USD",
            help="pause the key by itself when its calls of ten minutes cost more",
        )
        parser.add_argument("--json", action="store_true", help='print {"id": …, "key": …}')

    def work(self, **options: Any) -> str:
        tenant = find_tenant(options["tenant"])
        days = options["expires_days"]
        issued = issue_key(
            tenant,
            options["name"],
            team=find_team(tenant, options["team"]) if options["team"] else None,
            expires_at=utcnow() + timedelta(days=days) if days is not None else None,
            max_output_tokens=options["max_output_tokens"],
            hold_wait_seconds=options["hold_wait_seconds"],
            clamp_floor_tokens=options["clamp_floor_tokens"],
            burn_nanos_per_10_minutes_max=options["burn_usd_per_10_minutes_max"],
            actor=self.actor,
        )
        if options["json"]:
            return json.dumps({"id": issued.key.public_id, "key": issued.text})
        return f"id:  {issued.key.public_id}\nkey: {issued.text}"
