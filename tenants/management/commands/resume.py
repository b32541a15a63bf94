"""End a pause."""

from typing import Any

from django.core.management.base import CommandParser

from tenants.management.base import PlatformCommand
from tenants.management.pausing import add_target_arguments, target_of
from tenants.pauses import PauseRefused, find_pause, resume


class Command(PlatformCommand):
    help = "Let calls pass again that `pause` refuses, in every worker within a second."

    def add_arguments(self, parser: CommandParser) -> None:
        add_target_arguments(parser)

    def work(self, **options: Any) -> str:
        tenant, scope, ref = target_of(options)
        row = find_pause(tenant, scope=scope, ref=ref)
        if row is None:
            raise PauseRefused(f"{tenant} has no pause there. The console lists those that are open.")
        resume(row, actor=self.actor)
        return f"{tenant}: {row} has ended."
