"""Give no kept answer of a tenant, a tag or a model any more."""

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser

from governance.response_cache.models import Kind
from governance.response_cache.purges import purge
from tenants.lookups import find_tenant
from tenants.management.base import PlatformCommand


class Command(PlatformCommand):
    help = "Purge kept answers: they are misses in every worker within a second, with or without Valkey."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", required=True, help="slug or name; with nothing else, everything")
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--tag", help="name=value: answers to calls that carried it")
        what.add_argument("--model", help="a model's id: its answers, and those to calls that asked for it")

    def work(self, **options: Any) -> str:
        tenant = find_tenant(options["tenant"])
        kind, value = Kind.TENANT, ""
        if options["tag"] is not None:
            kind, value = Kind.TAG, options["tag"]
        elif options["model"] is not None:
            kind, value = Kind.MODEL, options["model"]
        try:
            row = purge(tenant, kind, value, actor=self.actor)
        except ValidationError:
            raise CommandError("Write a tag as name=value and a model as its id.") from None
        return f"{tenant}: {row} at {row.at:%Y-%m-%d %H:%M:%S} UTC."
