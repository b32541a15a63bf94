"""Revoke an API key."""

from typing import Any

from django.core.management.base import CommandParser

from tenants.keys import revoke_key
from tenants.lookups import find_key
from tenants.management.base import PlatformCommand


class Command(PlatformCommand):
    help = "Refuse an API key from now on, in every gateway worker within a second."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("id", help="the key's public id: the eight characters after exq_")
        parser.add_argument("--reason", default="", help="kept with the key and in the audit trail")

    def work(self, **options: Any) -> str:
        key = revoke_key(find_key(options["id"]), options["reason"], actor=self.actor)
        return f"{key} of {key.tenant} has been revoked since {key.revoked_at:%Y-%m-%d %H:%M:%S} UTC."
