"""Print fresh secrets, for an installation with servers of its own."""

from typing import Any

from django.core.management.base import BaseCommand

from governance.ops.env_files import new_secrets


class Command(BaseCommand):
    help = (
        "Print fresh secrets for the environment or .local/secrets.env. Keep them: data works with them only."
    )
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        for name, value in new_secrets().items():
            self.stdout.write(f"{name}={value}")
