"""Telling key holders by e-mail what changed in a policy: one mail each, in words first, then the lines.

Who holds a key: whoever issued it, as long as they belong to the key's tenant or team; the leads of its team;
owners and administrators of the tenant. Not whoever made the change.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from time import monotonic
from typing import Literal

from django.conf import settings
from django.contrib.auth.models import User
from django.core.mail import EmailMessage, mailers
from django.db.models import Q, QuerySet
from django.template.loader import render_to_string
from django.urls import reverse

from governance.audit.events import Actor
from governance.core.clock import utcnow
from governance.routing.changes import changed_rules, line_diff
from governance.routing.models import PolicyVersion, RoutingPolicy, Scope
from tenants.models import ApiKey, Membership, Team
from tenants.scope import tenant_scope

log = logging.getLogger(__name__)

type Done = Literal["published", "rolled back", "switched off", "switched on"]

MAILS_SECONDS_MAX = 20.0
"""The publisher waits for the mails; whoever was not reached by then is named to them."""
KEYS_NAMED_MAX = 10


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody to tell. `keys` are those they issued; `because` says why they are told."""

    name: str
    email: str
    because: str
    keys: tuple[str, ...] = ()


@dataclass(slots=True)
class Told:
    """Addresses that were mailed, and those that were not, with why."""

    sent: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    without_address: list[str] = field(default_factory=list)
    why: str = ""
    printed: bool = False

    def __str__(self) -> str:
        parts = [f"{_people(len(self.sent))} told by e-mail." if self.sent else "Nobody was told by e-mail."]
        if self.sent and self.printed:
            parts.append("No mail server is set (EXCHEQUER_SMTP_HOST), so the mails were only printed.")
        if self.without_address:
            parts.append(f"No address is known of {_some(self.without_address)}; tell them yourself.")
        if self.failed:
            parts.append(f"The mail to {_some(self.failed)} failed ({self.why}); tell them yourself.")
        return " ".join(parts)


def tell_key_holders(policy: RoutingPolicy, done: Done, before: PolicyVersion | None, actor: Actor) -> Told:
    """Mail everybody whom the change concerns. Never raises: what failed is in what it returns.

    `before` is the version that was live until now. Call it after the commit.
    """
    told = Told()
    try:
        with tenant_scope(policy.tenant_id):
            holders = key_holders(policy, but=actor.user_id)
            told.without_address = [holder.name for holder in holders if not holder.email]
            _send([_mail(policy, done, before, actor, holder) for holder in holders if holder.email], told)
    except Exception as error:  # the change is committed: its author reads what went wrong with the mails
        log.exception("Key holders were not told of %s", policy)
        told.why = told.why or f"{type(error).__name__}: {error}"
        told.failed = told.failed or ["the key holders"]
    return told


def key_holders(policy: RoutingPolicy, *, but: int | None = None) -> list[Holder]:
    """Whom a change of this policy concerns, each once. Run in the tenant's scope."""
    keys = list(governed_keys(policy).select_related("created_by"))
    teams = {key.team_id for key in keys} | ({int(policy.scope_ref)} if policy.scope == Scope.TEAM else set())
    members = Membership.objects.filter(tenant_id=policy.tenant_id, user__is_active=True).select_related(
        "user", "team", "tenant"
    )
    found: dict[int, tuple[User, str]] = {}
    belongs: set[tuple[int, int | None]] = set()
    for member in members:
        belongs.add((member.user_id, member.team_id))
        if member.team_id is None and member.role in (Membership.Role.OWNER, Membership.Role.ADMIN):
            found[member.user_id] = (member.user, f"you are {_a(member.role)} of {member.tenant}")
        elif member.role == Membership.Role.LEAD and (
            member.team_id in teams or policy.scope == Scope.TENANT
        ):
            found.setdefault(member.user_id, (member.user, f"you lead the team {member.team}"))
    issued: dict[int, list[str]] = {}
    for key in keys:
        user = key.created_by
        if user is None or not belongs & {(user.pk, None), (user.pk, key.team_id)} or not user.is_active:
            continue
        issued.setdefault(user.pk, []).append(str(key))
        found.setdefault(user.pk, (user, "you issued a key that it holds for"))
    return [
        Holder(user.get_full_name() or user.get_username(), user.email, because, tuple(issued.get(pk, ())))
        for pk, (user, because) in sorted(found.items())
        if pk != but
    ]


def governed_keys(policy: RoutingPolicy) -> "QuerySet[ApiKey]":
    """The live keys whose calls it holds for. Run in the tenant's scope."""
    keys: QuerySet[ApiKey] = ApiKey.objects.filter(
        Q(expires_at=None) | Q(expires_at__gt=utcnow()), tenant_id=policy.tenant_id, revoked_at=None
    ).order_by("pk")
    if policy.scope == Scope.TEAM:
        return keys.filter(team_id=int(policy.scope_ref))
    if policy.scope == Scope.KEY:
        return keys.filter(lineage_id=int(policy.scope_ref))
    return keys


def scope_words(policy: RoutingPolicy) -> str:
    """Whose calls it holds for: “every key of Acme”, “the keys of the team Search”. Run in its scope."""
    if policy.scope == Scope.TEAM:
        team = Team.objects.filter(pk=policy.scope_ref).first()
        return f"the keys of the team {team or policy.scope_ref}"
    if policy.scope == Scope.KEY:
        key = ApiKey.objects.filter(lineage_id=policy.scope_ref).order_by("-pk").first()
        return f"the key {key or policy.scope_ref}"
    return f"every key of {policy.tenant}"


def _mail(
    policy: RoutingPolicy, done: Done, before: PolicyVersion | None, actor: Actor, holder: Holder
) -> EmailMessage:
    live = policy.live
    assert live is not None  # without a version nothing changed for anybody
    page = reverse("admin:routing_routingpolicy_change", args=[policy.pk])
    text = render_to_string(
        "routing/policy_changed.txt",
        {
            "holder": holder,
            "keys": holder.keys[:KEYS_NAMED_MAX],
            "more_keys": max(0, len(holder.keys) - KEYS_NAMED_MAX),
            "policy": policy,
            "done": done,
            "scope": scope_words(policy),
            "actor": actor.name,
            "live": live,
            "before": before,
            "changes": changed_rules(before.document if before else None, live.document),
            "diff": line_diff(before, live),
            "page": f"{settings.CONSOLE_PUBLIC_URL}{page}",
        },
    )
    return EmailMessage(f"Exchequer: the policy “{policy}” has changed", text, to=[holder.email])


def _send(mails: list[EmailMessage], told: Told) -> None:
    """Over one connection; each mail's failure is its own, and none is begun after MAILS_SECONDS_MAX."""
    if not mails:
        return
    until = monotonic() + MAILS_SECONDS_MAX
    connection = mailers.default
    told.printed = type(connection).__module__.endswith(".console")
    for mail in mails:
        try:
            if monotonic() > until:
                raise TimeoutError(f"the mail server took longer than {MAILS_SECONDS_MAX:.0f} s")
            connection.open()
            connection.send_messages([mail])
        except Exception as error:  # whatever a mail server can do
            told.failed += mail.to
            told.why = str(error).strip() or type(error).__name__
        else:
            told.sent += mail.to
    connection.close()


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def _people(count: int) -> str:
    return "One key holder was" if count == 1 else f"{count} key holders were"


def _a(role: str) -> str:
    return f"an {role}"  # owner and admin alike
