"""What `pause` and `resume` share: how a person says which switch they mean."""

from typing import Any

from django.core.management.base import CommandParser

from tenants.lookups import find_key, find_team, find_tenant
from tenants.models import Pause, Tenant
from tenants.pauses import PauseRefused


def add_target_arguments(parser: CommandParser) -> None:
    parser.add_argument("--tenant", help="slug or name; with nothing else, the whole tenant")
    parser.add_argument("--team", help="slug or name of one of the tenant's teams")
    parser.add_argument("--tag", help="name=value, such as feature=search")
    parser.add_argument("--key", help="the key's public id: the eight characters after exq_")


def target_of(options: dict[str, Any]) -> tuple[Tenant, str, str]:
    """(tenant, scope, ref) as pauses.pause takes them. NotFound or PauseRefused with a sentence."""
    narrower = [name for name in ("team", "tag", "key") if options[name]]
    if len(narrower) > 1 or not (options["tenant"] or options["key"]):
        raise PauseRefused("Give --tenant, with --team or --tag where only that is meant; or --key.")
    if options["key"]:
        key = find_key(options["key"])
        if options["tenant"] and find_tenant(options["tenant"]) != key.tenant:
            raise PauseRefused(f"The key {key} is not one of {options['tenant']}.")
        return key.tenant, Pause.Scope.KEY, str(key.pk)
    tenant = find_tenant(options["tenant"])
    if options["team"]:
        return tenant, Pause.Scope.TEAM, str(find_team(tenant, options["team"]).pk)
    if options["tag"]:
        return tenant, Pause.Scope.TAG, options["tag"]
    return tenant, Pause.Scope.TENANT, ""
