"""What the commands about policies share: how a person says whose policy they mean."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from governance.routing.models import RoutingPolicy
from governance.routing.policies import find_policy
from tenants.management.pausing import target_of
from tenants.models import Tenant


def add_target_arguments(parser: CommandParser) -> None:
    parser.add_argument("--tenant", help="slug or name; with nothing else, the policy of the whole tenant")
    parser.add_argument("--team", help="slug or name of one of the tenant's teams")
    parser.add_argument("--key", help="the key's public id: the eight characters after exq_")


def policy_target(options: dict[str, Any]) -> tuple[Tenant, str, str]:
    """(tenant, scope, ref) as policies.create_policy takes them."""
    if not (options["tenant"] or options["key"]) or (options["team"] and options["key"]):
        raise CommandError("Give --tenant, with --team where only that is meant; or --key.")
    return target_of({"tag": None, **options})


def existing_policy(options: dict[str, Any]) -> RoutingPolicy:
    """CommandError where there is none."""
    tenant, scope, ref = policy_target(options)
    policy = find_policy(tenant, scope=scope, ref=ref)
    if policy is None:
        raise CommandError(f"{tenant} has no policy of that {scope} yet; publish_policy makes one.")
    return policy
