"""Store a key of the Claude API."""

import getpass
import sys
from typing import Any

from django.core.management.base import CommandParser

from tenants.credentials import add_credential
from tenants.lookups import find_tenant
from tenants.management.base import PlatformCommand


class Command(PlatformCommand):
    help = (
        "Store a key of the Claude API, encrypted. It is read from standard input or asked for, never "
        "taken as an argument, where other users of the machine could see it."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", help="slug or name; without it the credential serves every tenant")
        parser.add_argument("--label", required=True, help="how people will call it")

    def work(self, **options: Any) -> str:
        tenant = find_tenant(options["tenant"]) if options["tenant"] else None
        asked = getpass.getpass("Claude API key: ") if sys.stdin.isatty() else sys.stdin.readline()
        credential = add_credential(tenant, options["label"], asked.strip(), actor=self.actor)
        return f"Stored {credential} for {tenant or 'every tenant'}; new calls use it within a second."
