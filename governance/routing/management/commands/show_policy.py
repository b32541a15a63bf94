"""Show the policy of a tenant, a team or a key."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from governance.routing.management.target import add_target_arguments, existing_policy
from governance.routing.models import PolicyVersion
from tenants.management.base import PlatformCommand


class Command(PlatformCommand):
    help = "Print the live version of a policy, another one, its draft, or the list of its versions."

    def add_arguments(self, parser: CommandParser) -> None:
        add_target_arguments(parser)
        which = parser.add_mutually_exclusive_group()
        which.add_argument("--number", type=int, help="this version instead of the live one")
        which.add_argument("--draft", action="store_true", help="what is being edited")
        which.add_argument("--versions", action="store_true", help="who published what, and when")

    def work(self, **options: Any) -> str:
        policy = existing_policy(options)
        if options["draft"]:
            return policy.draft
        versions = PolicyVersion.objects.filter(policy=policy)
        if options["versions"]:
            return "\n".join(_line(version, version.pk == policy.live_id) for version in versions)
        if options["number"] is not None:
            version = versions.filter(number=options["number"]).first()
        else:
            version = policy.live
        if version is None:
            raise CommandError(f"“{policy}” has no such version; --versions lists what was published.")
        if not policy.enabled:
            self.stderr.write(f"“{policy}” is switched off: it changes no call.")
        return str(version.source)


def _line(version: PolicyVersion, is_live: bool) -> str:
    mark = "*" if is_live else " "
    when = f"{version.published_at:%Y-%m-%d %H:%M} UTC"
    return f"{mark} {version.number:>4}  {when}  {version.published_by}  {version.note}".rstrip()
