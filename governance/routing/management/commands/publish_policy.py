"""Publish a file as the policy of a tenant, a team or a key."""

from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from governance.routing.drafts import Problem, check_draft
from governance.routing.management.target import add_target_arguments, policy_target
from governance.routing.models import RoutingPolicy
from governance.routing.naming import known_to
from governance.routing.policies import (
    NothingChanged,
    PolicyRefused,
    create_policy,
    find_policy,
    publish,
    save_draft,
)
from tenants.management.base import PlatformCommand


class Command(PlatformCommand):
    help = "Publish a policy from a file; in force in every worker within a second, and key holders are told."

    def add_arguments(self, parser: CommandParser) -> None:
        add_target_arguments(parser)
        parser.add_argument("--file", required=True, help="the policy, as docs/policies.md describes it")
        parser.add_argument("--name", default="", help="what the policy is called; a new one needs none")
        parser.add_argument("--note", default="", help="why; key holders read it")
        parser.add_argument("--check", action="store_true", help="only read the file and say what is wrong")
        parser.add_argument(
            "--replace-draft",
            action="store_true",
            help="even if somebody is editing the draft in the console",
        )

    def work(self, **options: Any) -> str:
        tenant, _, _ = policy_target(options)  # nobody's is refused first
        path = Path(options["file"])
        try:
            source = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{path} cannot be read: {error}.") from None
        checked = check_draft(source, known_to(tenant.pk))
        if checked.policy is None:
            raise CommandError(_listed(path, checked.problems))
        if checked.warnings:
            self.stderr.write(_listed(path, checked.warnings, "warning: "))
        if options["check"]:
            return f"{path}: {len(checked.policy.rules)} rules, nothing wrong."
        try:
            outcome = publish(self._drafted(source, options), note=options["note"], actor=self.actor)
        except NothingChanged as error:
            return str(error)
        except PolicyRefused as error:
            raise CommandError(str(error)) from None
        policy = outcome.policy
        assert policy.live is not None
        off = "" if policy.enabled else " The policy is switched off, so no call changes."
        return f"{policy.tenant}: {policy.live} of “{policy}” is live.{off} {outcome.told}"

    def _drafted(self, source: str, options: dict[str, Any]) -> RoutingPolicy:
        """The policy of that scope, made where it is missing, with the file as its draft."""
        tenant, scope, ref = policy_target(options)
        policy = find_policy(tenant, scope=scope, ref=ref)
        if policy is None:
            name = options["name"] or f"Policy of {'the ' if scope != 'key' else 'a '}{scope}"
            return create_policy(tenant, scope=scope, ref=ref, name=name, draft=source, actor=self.actor)
        edited = policy.draft != (policy.live.source if policy.live else "")
        if edited and policy.draft != source and not options["replace_draft"]:
            raise PolicyRefused(
                f"Somebody is editing the draft of “{policy}” in the console. Let them publish or put it "
                "back, or add --replace-draft; what they wrote is lost then."
            )
        return save_draft(policy, source, name=options["name"] or None, actor=self.actor)


def _listed(path: Path, problems: tuple[Problem, ...], kind: str = "") -> str:
    """As compilers say it, so that editors find the line."""
    return "\n".join(f"{path}:{problem.line}: {kind}{problem.sentence}" for problem in problems)
