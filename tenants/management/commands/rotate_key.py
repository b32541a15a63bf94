"""Replace an API key by a new one, both working for a while."""

import json
from typing import Any

from django.core.management.base import CommandParser

from tenants.keys import rotate_key
from tenants.lookups import find_key
from tenants.management.base import PlatformCommand


class Command(PlatformCommand):
    help = "Issue a successor with the same settings; the old key works until the overlap ends."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("id", help="the key's public id: the eight characters after exq_")
        parser.add_argument("--overlap-seconds", type=int, default=86_400, help="one day unless told")
        parser.add_argument("--json", action="store_true", help='print {"id": …, "key": …}')

    def work(self, **options: Any) -> str:
        issued = rotate_key(find_key(options["id"]), options["overlap_seconds"], actor=self.actor)
        if options["json"]:
            return json.dumps({"id": issued.key.public_id, "key": issued.text})
        return (
            f"id:  {issued.key.public_id}\nkey: {issued.text}\n"
            f"The old key goes on for {options['overlap_seconds']} seconds at most."
        )
