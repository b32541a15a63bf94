"""Who may spend: tenants, their teams, members, API keys, provider credentials, and who is paused.

Rows are changed through the functions in tenants.py, keys.py, credentials.py and pauses.py, which also write
the audit trail; the database holds the rules as constraints for whoever comes by another road. Tenants are
closed, never deleted, because facts name them for ever.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import connection, models
from django.db.models import F, Func, Q, Value
from django.db.models.lookups import Exact, LessThanOrEqual

from tenants import validators
from tenants.scope import TenantScopedManager


def _without_control_characters(model: str, *columns: str) -> models.CheckConstraint:
    clean = Q()
    for column in columns:
        clean &= ~Q(**{f"{column}__regex": validators.CONTROL_CHARACTERS})
    return models.CheckConstraint(condition=clean, name=f"{model}_no_control_characters")


def _sql_rule(function: str, *arguments: Any) -> Func:
    """A rule that needs more than an expression: an immutable SQL function (see the first migration)."""
    return Func(*arguments, function=function, output_field=models.BooleanField())


def _array_length(column: str) -> Func:
    return Func(F(column), function="cardinality", output_field=models.IntegerField())


class Tenant(models.Model):
    """A company, or a part of one, with its own money. Names are unique across the installation."""

    class Status(models.TextChoices):
        ACTIVE = "active"
        PAUSED = "paused"
        CLOSED = "closed"

    name = models.CharField(max_length=100, unique=True, validators=[validators.validate_text])
    slug = models.SlugField(max_length=63, unique=True)
    time_zone = models.CharField(
        max_length=64,
        default="UTC",
        validators=[validators.validate_time_zone],
        help_text="IANA name; days and months of this tenant's budgets begin at midnight there.",
    )
    status = models.CharField(max_length=8, choices=Status, default=Status.ACTIVE)
    status_reason = models.CharField(
        max_length=500, default="", blank=True, validators=[validators.validate_text]
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TenantScopedManager("id")

    class Meta:
        ordering: ClassVar[Sequence[str]] = ["name"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(
                condition=Q(status__in=["active", "paused", "closed"]), name="tenant_status_known"
            ),
            models.CheckConstraint(
                condition=_sql_rule("exchequer_is_time_zone", F("time_zone")), name="tenant_time_zone_known"
            ),
            models.CheckConstraint(condition=~Q(name="") & ~Q(slug=""), name="tenant_is_named"),
            _without_control_characters("tenant", "name", "slug", "status_reason"),
        ]

    def __str__(self) -> str:
        return self.name


class Team(models.Model):
    """A group within a tenant that can have keys and budgets of its own."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="teams")
    name = models.CharField(max_length=100, validators=[validators.validate_text])
    slug = models.SlugField(max_length=63)

    objects = TenantScopedManager()

    class Meta:
        ordering: ClassVar[Sequence[str]] = ["name"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["tenant", "name"], name="team_name_once_per_tenant"),
            models.UniqueConstraint(fields=["tenant", "slug"], name="team_slug_once_per_tenant"),
            # What composite foreign keys point at, so that a team's key is its own tenant's key.
            models.UniqueConstraint(fields=["id", "tenant"], name="team_with_its_tenant"),
            models.CheckConstraint(condition=~Q(name="") & ~Q(slug=""), name="team_is_named"),
            _without_control_characters("team", "name", "slug"),
        ]

    def __str__(self) -> str:
        return self.name


class Membership(models.Model):
    """What a person may do: for the whole tenant (no team), or for one team."""

    class Role(models.TextChoices):
        OWNER = "owner"
        ADMIN = "admin"
        LEAD = "lead"
        VIEWER = "viewer"

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="memberships")
    team = models.ForeignKey(
        Team, on_delete=models.CASCADE, null=True, blank=True, related_name="memberships"
    )
    role = models.CharField(
        max_length=8,
        choices=Role,
        help_text="Without a team: owner, admin or viewer. With a team: lead or viewer.",
    )

    objects = TenantScopedManager()

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(
                condition=Q(team=None, role__in=["owner", "admin", "viewer"])
                | Q(team__isnull=False, role__in=["lead", "viewer"]),
                name="membership_role_fits_its_reach",
                violation_error_message=(
                    "For the whole tenant choose owner, admin or viewer; for a team choose lead or viewer."
                ),
            ),
            models.UniqueConstraint(
                fields=["user", "tenant"], condition=Q(team=None), name="membership_once_per_tenant"
            ),
            models.UniqueConstraint(
                fields=["user", "team"], condition=Q(team__isnull=False), name="membership_once_per_team"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user}: {self.role} of {self.team or self.tenant}"


class ApiKey(models.Model):
    """A credential that we issued. Its text is shown once; only an HMAC of it is kept (see keys.py)."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="api_keys")
    team = models.ForeignKey(Team, on_delete=models.PROTECT, null=True, blank=True, related_name="api_keys")
    name = models.CharField(max_length=100, validators=[validators.validate_text])
    public_id = models.CharField(max_length=8, unique=True, editable=False)
    digest = models.BinaryField(unique=True, editable=False)
    pepper_id = models.CharField(max_length=32, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, editable=False, related_name="+"
    )
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Refused from this moment on.")
    revoked_at = models.DateTimeField(null=True, editable=False)
    revoked_reason = models.CharField(
        max_length=500, default="", editable=False, validators=[validators.validate_text]
    )
    replaced_by = models.OneToOneField(
        "self", on_delete=models.PROTECT, null=True, editable=False, related_name="replaces"
    )
    lineage_id = models.BigIntegerField(
        editable=False,
        help_text="The id of the first key of its rotations; a budget on one of them is a budget on all.",
    )
    default_tags = models.JSONField(
        default=dict,
        blank=True,
        validators=[validators.validate_tags],
        help_text='Tags of every call with this key, such as {"feature": "search"}; a call may add others.',
    )
    required_tags = ArrayField(
        models.CharField(max_length=validators.TAG_KEY_LENGTH_MAX, validators=[validators.validate_tag_name]),
        size=validators.TAGS_MAX,
        default=list,
        blank=True,
        help_text="Names of tags without which a call is refused, separated by commas.",
    )
    allowed_models = ArrayField(
        models.CharField(max_length=validators.MODEL_LENGTH_MAX, validators=[validators.validate_text]),
        size=validators.LIST_LENGTH_MAX,
        default=list,
        blank=True,
        help_text="Model ids that this key may ask for, separated by commas; empty allows every model.",
    )
    max_output_tokens = models.PositiveIntegerField(
        null=True, blank=True, help_text="The largest max_tokens that a call may ask for; keeps holds small."
    )
    hold_wait_seconds = models.PositiveSmallIntegerField(
        default=10,
        db_default=10,
        help_text="How long a call waits, in order of arrival, for room that calls in flight will leave in a "
        "budget; 0 refuses at once.",
    )
    clamp_floor_tokens = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="A call that does not fit in a budget is made with fewer max_tokens, but not with fewer "
        "than this; empty refuses it.",
    )
    burn_nanos_per_10_minutes_max = models.BigIntegerField(
        null=True,
        blank=True,
        help_text="A key whose calls of the last ten minutes cost more is paused by itself, until a person "
        "resumes it; empty never pauses.",
    )
    unbounded_allowed = models.BooleanField(
        default=False,
        help_text="Let calls pass whose worst case has no bound. Such calls can overspend a hard budget.",
    )
    as_asked_allowed = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Let calls with the header “exchequer-route: as-asked” go to the model that they ask for, "
        "unchanged, whatever policies say. What a policy denies or caps stays denied and capped.",
    )

    objects = TenantScopedManager()

    class Meta:
        verbose_name = "API key"
        verbose_name_plural = "API keys"
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(condition=Q(public_id__regex="^[0-9A-Za-z]{8}$"), name="apikey_public_id"),
            models.CheckConstraint(
                condition=Exact(
                    Func(F("digest"), function="octet_length", output_field=models.IntegerField()), Value(32)
                ),
                name="apikey_digest_is_sha256",
            ),
            models.CheckConstraint(
                condition=Q(revoked_at__isnull=False) | Q(revoked_reason=""), name="apikey_reason_if_revoked"
            ),
            models.CheckConstraint(
                condition=Q(max_output_tokens=None) | Q(max_output_tokens__gte=1), name="apikey_output_cap"
            ),
            models.CheckConstraint(
                condition=Q(hold_wait_seconds__gte=0, hold_wait_seconds__lte=300), name="apikey_hold_wait"
            ),
            models.CheckConstraint(
                condition=Q(clamp_floor_tokens=None) | Q(clamp_floor_tokens__gte=1), name="apikey_clamp_floor"
            ),
            models.CheckConstraint(
                condition=Q(burn_nanos_per_10_minutes_max=None) | Q(burn_nanos_per_10_minutes_max__gte=1),
                name="apikey_burn",
            ),
            models.CheckConstraint(
                condition=_sql_rule(
                    "exchequer_are_tags",
                    F("default_tags"),
                    Value(validators.TAGS_MAX),
                    Value(validators.TAG_KEY_LENGTH_MAX),
                    Value(validators.TAG_VALUE_LENGTH_MAX),
                ),
                name="apikey_default_tags_bounded",
            ),
            models.CheckConstraint(
                condition=Q(LessThanOrEqual(_array_length("required_tags"), Value(validators.TAGS_MAX)))
                & Q(LessThanOrEqual(_array_length("allowed_models"), Value(validators.LIST_LENGTH_MAX))),
                name="apikey_lists_bounded",
            ),
            models.CheckConstraint(condition=~Q(name=""), name="apikey_is_named"),
            _without_control_characters("apikey", "name", "revoked_reason"),
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(
                fields=["lineage_id"],
                condition=Q(burn_nanos_per_10_minutes_max__isnull=False),
                name="apikey_with_a_burn_limit",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} (exq_{self.public_id}…)"


class ProviderCredential(models.Model):
    """A key of the Claude API, encrypted at rest and write-only. No tenant: the operator's, for everybody.

    Several may be live; calls use the newest live one. Where calls go is an operator setting
    (ANTHROPIC_BASE_URL): nothing in a row can send a credential elsewhere.
    """

    tenant = models.ForeignKey(
        Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="provider_credentials"
    )
    label = models.CharField(max_length=100, validators=[validators.validate_text])
    ciphertext = models.BinaryField(editable=False)
    encryption_key_id = models.CharField(max_length=32, editable=False)
    hint = models.CharField(max_length=4, editable=False, help_text="The last four characters.")
    created_at = models.DateTimeField(auto_now_add=True)
    disabled_at = models.DateTimeField(null=True, editable=False)

    objects = TenantScopedManager()

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(condition=~Q(label=""), name="credential_is_named"),
            _without_control_characters("credential", "label", "hint"),
        ]

    def __str__(self) -> str:
        return f"{self.label} (…{self.hint})"


class Pause(models.Model):
    """A switch that refuses every call of a key, a team, a tag value or the whole tenant (see pauses.py).

    `scope_ref` is the key's lineage, the team's id, "name=value" of the tag, "" for the tenant. A pause is
    ended, never deleted.
    """

    class Scope(models.TextChoices):
        TENANT = "tenant", "The whole tenant"
        TEAM = "team", "One team"
        KEY = "key", "One API key"
        TAG = "tag", "One tag value"

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="pauses")
    scope = models.CharField(max_length=8, choices=Scope)
    scope_ref = models.CharField(
        max_length=validators.TAG_KEY_LENGTH_MAX + 1 + validators.TAG_VALUE_LENGTH_MAX,
        default="",
        blank=True,
        validators=[validators.validate_text],
    )
    reason = models.CharField(
        max_length=300,
        validators=[validators.validate_text],
        help_text="Callers read it in the refusal, so say why, and what they should do.",
    )
    began_at = models.DateTimeField(auto_now_add=True)
    began_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, editable=False, related_name="+"
    )
    ended_at = models.DateTimeField(null=True, editable=False)
    is_automatic = models.BooleanField(
        default=False,
        db_default=False,
        editable=False,
        help_text="Nobody paused it; it spent too fast.",
    )
    told_at = models.DateTimeField(
        null=True, editable=False, help_text="When an automatic pause was mailed to the tenant's people."
    )

    objects = TenantScopedManager()

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(
                condition=Q(scope="tenant", scope_ref="")
                | Q(scope__in=["team", "key"], scope_ref__regex="^[0-9]+$")
                | Q(scope="tag", scope_ref__regex="^[^=]+=."),
                name="pause_names_what_it_pauses",
            ),
            models.UniqueConstraint(
                fields=["tenant", "scope", "scope_ref"],
                condition=Q(ended_at=None),
                name="pause_open_once_per_scope",
            ),
            models.CheckConstraint(condition=~Q(reason=""), name="pause_has_a_reason"),
            _without_control_characters("pause", "scope_ref", "reason"),
        ]

    def __str__(self) -> str:
        return f"pause of {self.scope} {self.scope_ref}".rstrip()


class TenantVersion(models.Model):
    """The number that changes whenever a tenant's settings do; written by triggers only (versioning.py)."""

    tenant_id = models.BigIntegerField(primary_key=True)
    version = models.BigIntegerField()

    def __str__(self) -> str:
        return f"tenant {self.tenant_id} at version {self.version}"


def next_id(model: type[models.Model]) -> int:
    """The id of a row that is yet to be made, for rows that carry something computed from it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval(pg_get_serial_sequence(%s, 'id'))", [model._meta.db_table])
        drawn: int = cursor.fetchone()[0]
    return drawn
