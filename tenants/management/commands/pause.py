"""Pause a key, a team, a tag value or a tenant."""

from typing import Any

from django.core.management.base import CommandParser

from tenants.management.base import PlatformCommand
from tenants.management.pausing import add_target_arguments, target_of
from tenants.pauses import pause


class Command(PlatformCommand):
    help = "Refuse every call of a key, a team, a tag value or a tenant, in every worker within a second."

    def add_arguments(self, parser: CommandParser) -> None:
        add_target_arguments(parser)
        parser.add_argument("--reason", required=True, help="callers read it in the refusal")

    def work(self, **options: Any) -> str:
        tenant, scope, ref = target_of(options)
        row = pause(tenant, options["reason"], scope=scope, ref=ref, actor=self.actor)
        return f"{tenant}: {row} since {row.began_at:%Y-%m-%d %H:%M:%S} UTC. `resume` ends it."
