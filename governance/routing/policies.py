"""Changing policies: the one way in, for the console and the commands. Each change is audited.

Only a text that reads and checks without a problem becomes a version; until then the live version stays as it
is. Whoever holds keys that a change concerns is told once it is committed (telling.py): see Outcome.told.
"""

import hashlib
from dataclasses import dataclass, field

import msgspec
from django.db import transaction

from governance.audit import events
from governance.audit.events import SYSTEM, Actor
from governance.routing.document import Policy
from governance.routing.drafts import Problem, as_document, check_draft
from governance.routing.models import SOURCE_LENGTH_MAX, PolicyVersion, RoutingPolicy, Scope
from governance.routing.naming import known_of
from governance.routing.telling import Done, Told, tell_key_holders
from tenants.models import ApiKey, Team, Tenant
from tenants.scope import tenant_scope


class PolicyRefused(ValueError):
    """What cannot be done with a policy; the text says why and what to do."""


class DraftRefused(PolicyRefused):
    """A draft that cannot be published. `problems` name its lines; the live version stays."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__(" ".join(str(problem) for problem in problems))
        self.problems = problems


class NothingChanged(PolicyRefused):
    """What would be published is live already."""


@dataclass(slots=True)
class Outcome:
    """A change that is committed. `told` is filled in right after the commit."""

    policy: RoutingPolicy
    told: Told = field(default_factory=Told)


def create_policy(
    tenant: Tenant, *, scope: str, ref: str = "", name: str, draft: str = "", actor: Actor | None = None
) -> RoutingPolicy:
    """A policy without a version yet: it changes no call until it is published.

    `ref` is the id of the team's or key's row; a policy of a key holds for its lineage. PolicyRefused for a
    target of another tenant; ValidationError where that scope has a policy already.
    """
    with transaction.atomic(), tenant_scope(tenant.pk):
        kept_ref = _kept_ref(tenant, scope, ref)
        policy = RoutingPolicy(
            tenant=tenant, scope=scope, scope_ref=kept_ref, name=name, draft=_draft_text(draft)
        )
        policy.full_clean()
        policy.save()
        events.record(actor, tenant.pk, "policy.create", policy, after=policy_facts(policy))
    return policy


def find_policy(tenant: Tenant, *, scope: str, ref: str = "") -> RoutingPolicy | None:
    """The policy of that scope. `ref` as for `create_policy`."""
    with tenant_scope(tenant.pk):
        found: RoutingPolicy | None = (
            RoutingPolicy.objects.select_related("tenant", "live")
            .filter(tenant=tenant, scope=scope, scope_ref=_kept_ref(tenant, scope, ref))
            .first()
        )
    return found


def save_draft(
    policy: RoutingPolicy, draft: str, *, name: str | None = None, seen: str = "", actor: Actor | None = None
) -> RoutingPolicy:
    """Keep an edited text, and a new name; no call changes. It may be wrong still: see check_draft.

    `seen` is the `stamp` that the editor began with; PolicyRefused where somebody else saved meanwhile.
    """
    with transaction.atomic(), tenant_scope(policy.tenant_id):
        locked = _lock(policy, seen)
        before = {**policy_facts(locked), "draft": _digest(locked.draft)}
        locked.draft, locked.name = _draft_text(draft), locked.name if name is None else name
        locked.full_clean()
        locked.save(update_fields=["draft", "name"])
        after = {**policy_facts(locked), "draft": _digest(locked.draft)}
        if before != after:
            events.record(actor, locked.tenant_id, "policy.draft", locked, before, after)
    return locked


def publish(policy: RoutingPolicy, *, note: str = "", seen: str = "", actor: Actor | None = None) -> Outcome:
    """Make the draft a version, live in every worker within a second.

    DraftRefused where it does not read or check; NothingChanged where it is live already; PolicyRefused where
    the draft or the live version moved since `seen` (a `stamp`). Whatever is refused, the old version stays.
    """
    with transaction.atomic(), tenant_scope(policy.tenant_id):
        locked = _lock(policy, seen)
        checked = check_draft(locked.draft, known_of(locked))
        if checked.policy is None:
            raise DraftRefused(checked.problems)
        document = as_document(checked.policy)
        before, live = policy_facts(locked), locked.live
        if live and (live.source, live.document) == (locked.draft, document):
            raise NothingChanged(f"Version {live.number} of “{locked}” says this already and is live.")
        who = actor or SYSTEM
        version = PolicyVersion(
            policy=locked,
            number=_newest_number(locked) + 1,
            source=locked.draft,
            document=document,
            note=note.strip(),
            published_by=who.name[:200],
            published_by_user_id=who.user_id,
        )
        version.full_clean(exclude=["document", "published_by_user_id"])
        version.save()
        locked.live = version
        locked.save(update_fields=["live"])
        events.record(actor, locked.tenant_id, "policy.publish", locked, before, policy_facts(locked))
        return _told_after_commit(locked, "published", live, who)


def roll_back(policy: RoutingPolicy, number: int, *, seen: str = "", actor: Actor | None = None) -> Outcome:
    """Make another of its versions live again, as it was published; the draft stays as it is.

    PolicyRefused for a version that there is not, that is live, or that this release cannot read any more.
    """
    with transaction.atomic(), tenant_scope(policy.tenant_id):
        locked = _lock(policy, seen)
        version = PolicyVersion.objects.filter(policy=locked, number=number).first()
        if version is None:
            raise PolicyRefused(f"“{locked}” has no version {number}; choose one that was published.")
        before, live = policy_facts(locked), locked.live
        if live == version:
            raise PolicyRefused(f"Version {number} of “{locked}” is live; choose another one.")
        try:
            msgspec.convert(version.document, Policy)
        except msgspec.ValidationError as error:
            raise PolicyRefused(
                f"Version {number} is of an older release and cannot be read any more ({error}); put its "
                "text into the draft, mend it and publish that."
            ) from None
        locked.live = version
        locked.save(update_fields=["live"])
        events.record(actor, locked.tenant_id, "policy.roll_back", locked, before, policy_facts(locked))
        return _told_after_commit(locked, "rolled back", live, actor or SYSTEM)


def set_enabled(policy: RoutingPolicy, enabled: bool, *, actor: Actor | None = None) -> Outcome:
    """Switch the live version off, or on again, in every worker within a second."""
    with transaction.atomic(), tenant_scope(policy.tenant_id):
        locked = _lock(policy, "")
        if locked.enabled == enabled:
            raise PolicyRefused(f"“{locked}” is {'on' if enabled else 'off'} already.")
        before = policy_facts(locked)
        locked.enabled = enabled
        locked.save(update_fields=["enabled"])
        action = "policy.enable" if enabled else "policy.disable"
        events.record(actor, locked.tenant_id, action, locked, before, policy_facts(locked))
        done: Done = "switched on" if enabled else "switched off"
        return _told_after_commit(locked, done, locked.live, actor or SYSTEM)


def stamp(policy: RoutingPolicy) -> str:
    """What an editor has before their eyes: changes with the draft, the name and the live version."""
    return _digest(f"{policy.live_id}\n{policy.name}\n{policy.draft}")


def policy_facts(policy: RoutingPolicy) -> dict[str, object]:
    """What the audit trail keeps of a policy. Its texts are in the versions."""
    return {
        "name": policy.name,
        "scope": policy.scope,
        "scope_ref": policy.scope_ref,
        "live_version": policy.live.number if policy.live else None,
        "enabled": policy.enabled,
    }


def _told_after_commit(
    policy: RoutingPolicy, done: Done, before: PolicyVersion | None, actor: Actor
) -> Outcome:
    """Mail waits for the commit, so that nobody is told of what did not happen, and cannot undo it.

    What is changed in a policy that is off, or was never published, changes no call: nobody is told.
    """
    outcome = Outcome(policy)

    def tell() -> None:
        outcome.told = tell_key_holders(policy, done, before, actor)

    if policy.live is not None and (policy.enabled or done == "switched off"):
        transaction.on_commit(tell)
    return outcome


def _lock(policy: RoutingPolicy, seen: str) -> RoutingPolicy:
    locked: RoutingPolicy = RoutingPolicy.objects.select_for_update().get(pk=policy.pk)
    if seen and seen != stamp(locked):
        raise PolicyRefused(
            f"“{locked}” was changed by somebody else since you opened it. Open it again, and put what is "
            "yours into what it says now."
        )
    return locked


def _newest_number(policy: RoutingPolicy) -> int:
    newest: int | None = PolicyVersion.objects.filter(policy=policy).values_list("number", flat=True).first()
    return newest or 0


def _draft_text(draft: str) -> str:
    """With the line ends of a file; browsers send others."""
    text = draft.replace("\r\n", "\n")
    if len(text) > SOURCE_LENGTH_MAX:
        raise PolicyRefused(
            f"A policy is at most {SOURCE_LENGTH_MAX:,} characters; this one is {len(text):,}. Give teams "
            "policies of their own."
        )
    if "\x00" in text:
        raise PolicyRefused("A policy cannot hold the character NUL; remove it.")
    return text


def _kept_ref(tenant: Tenant, scope: str, ref: str) -> str:
    if scope == Scope.TENANT:
        return ""
    target: type[Team] | type[ApiKey] = Team if scope == Scope.TEAM else ApiKey
    row = target.objects.filter(tenant=tenant, pk=ref).first() if ref.isdecimal() else None
    if row is None:
        raise PolicyRefused(f"{tenant.name} has no {scope} with the id “{ref}”.")
    return str(row.lineage_id if isinstance(row, ApiKey) else row.pk)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
