import json
from typing import Any

from django.core.management.base import CommandParser

from governance.budgets.sums import ledger_sums
from governance.core.money import nanos_to_usd
from tenants.lookups import NotFound, find_key, find_tenant
from tenants.management.base import PlatformCommand


class Command(PlatformCommand):
    help = "Print what a tenant, or one of its keys, has spent and holds, to the nano-dollar."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", required=True, help="the tenant's slug or name")
        parser.add_argument("--key", help="the key's public id; all keys when left out")
        parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")

    def work(self, **options: Any) -> str:
        tenant = find_tenant(options["tenant"])
        key = find_key(options["key"]) if options["key"] else None
        if key and key.tenant_id != tenant.pk:
            raise NotFound(f"{tenant.name} has no key “{options['key']}”.")
        sums = ledger_sums(tenant.pk, key.pk if key else None)
        figures = {
            "spent_usd": nanos_to_usd(sums["spent_nanos"]),
            "held_usd": nanos_to_usd(sums["held_nanos"]),
            "calls": sums["calls"],
            "by_meter": {meter: nanos_to_usd(nanos) for meter, nanos in sorted(sums["by_meter"].items())},
        }
        if options["json"]:
            return json.dumps(figures)
        head = f"spent ${figures['spent_usd']}, held ${figures['held_usd']}, {figures['calls']} calls"
        return "\n".join([head, *(f"  {meter:16} ${usd}" for meter, usd in figures["by_meter"].items())])
