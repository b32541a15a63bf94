"""Limit the calls of a tenant, a team or a key."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from governance.limits.limits import MEASURES, LimitRefused, find_limit, remove_limit, set_limit
from tenants.management.base import PlatformCommand
from tenants.management.pausing import target_of


class Command(PlatformCommand):
    help = "Limit calls: create the limit of that scope and model, or change what is given of it."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", help="slug or name; with nothing else, the whole tenant")
        parser.add_argument("--team", help="slug or name of one of the tenant's teams")
        parser.add_argument("--key", help="the key's public id: the eight characters after exq_")
        parser.add_argument("--model", default="", help="count only this model's calls")
        for measure in MEASURES:
            parser.add_argument(f"--{measure.replace('_', '-')}", type=int, help="0 lifts this one")
        parser.add_argument("--lift", action="store_true", help="remove the limit altogether")

    def work(self, **options: Any) -> str:
        tenant, scope, ref = target_of({"tag": None, **options})
        measures = {name: options[name] or None for name in MEASURES if options[name] is not None}
        where = {"scope": scope, "ref": ref, "model": options["model"]}
        try:
            if options["lift"]:
                row = find_limit(tenant, **where)
                remove_limit(row, actor=self.actor)
                return f"{tenant}: {row} is lifted."
            row = set_limit(tenant, measures, **where, actor=self.actor)
        except LimitRefused as error:
            raise CommandError(str(error)) from None
        said = ", ".join(f"{name} {getattr(row, name):,}" for name in MEASURES if getattr(row, name))
        return f"{tenant}: {row}: {said}."
