"""Prices as rows that are never rewritten.

Beside them stands what the operator decided about calls whose price is in doubt: names that are refused,
names that nobody knows yet, and bounds that broke.

Two kinds of time meet in a price. `effective_from` and `effective_to` say when Anthropic charges it;
`added_in` and `superseded_in` say which loads of ours believed it. A load that learns something new closes
the rows that it contradicts and adds others, so the book “as of load V” can be compiled again for ever, and
a charge can be explained by the very prices that it was made with. Triggers hold these rules (see the first
migration).
"""

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import ArrayField, RangeBoundary, RangeOperators
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Func, Q
from django.db.models.functions import Now

from governance.core.meters import METERS
from governance.pricing.rates import ANY, PPM, VARIANTS
from tenants.models import Tenant
from tenants.scope import TenantScopedManager


class EffectiveSpan(Func):
    """[effective_from, effective_to): an absent bound is open."""

    function = "tstzrange"

    def __init__(self) -> None:
        super().__init__(F("effective_from"), F("effective_to"), RangeBoundary())


class BelievedSpan(Func):
    """[added_in, superseded_in): the loads that hold this row."""

    function = "int8range"

    def __init__(self) -> None:
        super().__init__(F("added_in"), F("superseded_in"), RangeBoundary())


class TransactionId(Func):
    """The number of the transaction that writes the row."""

    template = "(pg_current_xact_id()::text::bigint)"
    arity = 0
    output_field = models.BigIntegerField()


class PriceBookVersion(models.Model):
    """One load of prices. Its number is what holds, charges and attempts pin. Closed when it commits."""

    loaded_at = models.DateTimeField(db_default=Now())
    source = models.CharField(max_length=200, help_text="The file, and what it says about its own date.")
    digest = models.CharField(max_length=64, help_text="SHA-256 of the file, in hex.")
    xact = models.BigIntegerField(db_default=TransactionId(), editable=False)

    def __str__(self) -> str:
        return f"prices {self.pk} ({self.source})"


class PriceRow(models.Model):
    """What one meter of one model costs over a span of time; see `rates.ListRate` for the fields."""

    model_id = models.CharField(max_length=100, help_text="“*” is every model.")
    meter = models.CharField(max_length=16, choices=[(meter, meter) for meter in METERS])
    variant = models.CharField(max_length=8, choices=[(variant, variant) for variant in VARIANTS])
    above_prompt_tokens = models.BigIntegerField(default=0)
    nanos_per_mtok = models.BigIntegerField(
        help_text="Nano-dollars per million tokens; for web_search per million searches."
    )
    us_geo_ppm = models.BigIntegerField(
        default=PPM, help_text="Multiplier when served in the US, in millionths."
    )
    effective_from = models.DateTimeField(null=True, blank=True)
    effective_to = models.DateTimeField(null=True, blank=True)
    added_in = models.ForeignKey(PriceBookVersion, on_delete=models.PROTECT, related_name="rows_added")
    superseded_in = models.ForeignKey(
        PriceBookVersion, on_delete=models.PROTECT, related_name="rows_superseded", null=True, blank=True
    )

    class Meta:
        ordering = ["model_id", "variant", "above_prompt_tokens", "meter", "effective_from"]
        constraints = [
            models.CheckConstraint(condition=Q(meter__in=METERS), name="price_meter_known"),
            models.CheckConstraint(condition=Q(variant__in=VARIANTS), name="price_variant_known"),
            models.CheckConstraint(
                condition=Q(nanos_per_mtok__gte=0, above_prompt_tokens__gte=0), name="price_is_not_negative"
            ),
            models.CheckConstraint(condition=Q(us_geo_ppm__gte=PPM), name="price_geo_is_no_discount"),
            models.CheckConstraint(
                condition=Q(effective_from=None)
                | Q(effective_to=None)
                | Q(effective_from__lt=F("effective_to")),
                name="price_span_is_not_empty",
            ),
            ExclusionConstraint(
                name="one_price_at_a_time",
                expressions=[
                    ("model_id", RangeOperators.EQUAL),
                    ("meter", RangeOperators.EQUAL),
                    ("variant", RangeOperators.EQUAL),
                    ("above_prompt_tokens", RangeOperators.EQUAL),
                    (EffectiveSpan(), RangeOperators.OVERLAPS),
                    (BelievedSpan(), RangeOperators.OVERLAPS),
                ],
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model_id} {self.meter} {self.variant}"


class KnownModel(models.Model):
    """What a model can do, as far as prices and bounds need it; see `rates.ModelFacts`."""

    model_id = models.CharField(max_length=100)
    aliases = ArrayField(models.CharField(max_length=100), default=list, blank=True)
    family = models.CharField(max_length=40)
    status = models.CharField(max_length=200)
    context_window_tokens = models.IntegerField()
    output_tokens_max = models.IntegerField()
    batch_output_tokens_max = models.IntegerField(null=True, blank=True)
    cacheable_prefix_tokens_min = models.IntegerField(null=True, blank=True)
    tokenizer = models.CharField(max_length=8)
    released_on = models.DateField(null=True, blank=True)
    retires_on = models.DateField(null=True, blank=True)
    added_in = models.ForeignKey(PriceBookVersion, on_delete=models.PROTECT, related_name="models_added")
    superseded_in = models.ForeignKey(
        PriceBookVersion, on_delete=models.PROTECT, related_name="models_superseded", null=True, blank=True
    )

    class Meta:
        ordering = ["model_id"]
        constraints = [
            ExclusionConstraint(
                name="one_description_at_a_time",
                expressions=[
                    ("model_id", RangeOperators.EQUAL),
                    (BelievedSpan(), RangeOperators.OVERLAPS),
                ],
            ),
        ]

    def __str__(self) -> str:
        return self.model_id


class ContractPrice(models.Model):
    """What one tenant pays instead of list price; see `rates.ContractRate`.

    Made and ended through contracts.py. What has been in force is never changed or deleted.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="contract_prices")
    model_id = models.CharField(
        max_length=100, default=ANY, help_text="An exact model id; “*” is every model."
    )
    meter = models.CharField(max_length=16, default=ANY, choices=[(m, m) for m in (ANY, *METERS)])
    variant = models.CharField(max_length=8, default=ANY, choices=[(v, v) for v in (ANY, *VARIANTS)])
    above_prompt_tokens = models.BigIntegerField(default=0, validators=[MinValueValidator(0)])
    discount_ppm = models.IntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(0), MaxValueValidator(PPM)],
        help_text="Off list price, in millionths: 150000 is 15 %.",
    )
    nanos_per_mtok = models.BigIntegerField(null=True, blank=True, validators=[MinValueValidator(0)])
    effective_from = models.DateTimeField()
    effective_to = models.DateTimeField(null=True, blank=True)
    note = models.CharField(max_length=500, default="", blank=True)

    objects = TenantScopedManager()

    class Meta:
        ordering = ["tenant_id", "model_id", "effective_from"]
        constraints = [
            models.CheckConstraint(
                # Without isnull=False an empty figure would make the whole condition NULL, which passes.
                condition=Q(discount_ppm__isnull=False, discount_ppm__range=(0, PPM), nanos_per_mtok=None)
                & Q(meter=ANY, variant=ANY, above_prompt_tokens=0)
                | Q(nanos_per_mtok__isnull=False, nanos_per_mtok__gte=0, discount_ppm=None)
                & Q(meter__in=METERS, variant__in=VARIANTS, above_prompt_tokens__gte=0)
                & ~Q(model_id=ANY),
                name="contract_is_discount_or_rate",
                violation_error_message=(
                    "Give either a discount (on every meter and variant), or an own rate for one model, "
                    "meter and variant."
                ),
            ),
            models.CheckConstraint(
                condition=Q(effective_to=None) | Q(effective_from__lt=F("effective_to")),
                name="contract_span_is_not_empty",
                violation_error_message="The contract price must end after it begins.",
            ),
            ExclusionConstraint(
                name="one_contract_price_at_a_time",
                expressions=[
                    ("tenant", RangeOperators.EQUAL),
                    ("model_id", RangeOperators.EQUAL),
                    ("meter", RangeOperators.EQUAL),
                    ("variant", RangeOperators.EQUAL),
                    ("above_prompt_tokens", RangeOperators.EQUAL),
                    (EffectiveSpan(), RangeOperators.OVERLAPS),
                ],
                violation_error_message="Another contract price covers part of that time; end it first.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model_id} for tenant {self.tenant_id}"


class NameKind(models.TextChoices):
    """Where a client names something."""

    BETA = "beta", "beta (anthropic-beta header)"
    FIELD = "field", "field of the request body"
    MODEL = "model", "model"


class RefusedName(models.Model):
    """A name that no call may use, whoever makes it. Removing the row allows it again."""

    kind = models.CharField(max_length=8, choices=NameKind)
    name = models.CharField(max_length=128)
    reason = models.CharField(max_length=300, help_text="Callers read it in the refusal.")
    since = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["kind", "name"]
        constraints = [models.UniqueConstraint(fields=["kind", "name"], name="refused_once")]

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class SeenName(models.Model):
    """A name that a call used and that we did not know: worst cases with it were assumed. Written once, by
    the gateway; `tenant_id` is whose call was the first."""

    kind = models.CharField(max_length=8, choices=NameKind)
    name = models.CharField(max_length=128)
    tenant_id = models.BigIntegerField()
    seen_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["-seen_at"]
        constraints = [models.UniqueConstraint(fields=["kind", "name"], name="seen_once")]

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class BrokenBound(models.Model):
    """A model and the features of a call to it that cost more than its worst case.

    Until an operator clears it, calls to the model that use all of these features are refused: what holds
    promise for them cannot be trusted. No features: every call to the model. `attempt_id` is the first one.
    """

    model_id = models.CharField(max_length=128)
    features = ArrayField(models.CharField(max_length=80), default=list, blank=True)
    tenant_id = models.BigIntegerField()
    attempt_id = models.UUIDField()
    bound_nanos = models.BigIntegerField()
    cost_nanos = models.BigIntegerField()
    broke_at = models.DateTimeField(db_default=Now())
    cleared_at = models.DateTimeField(null=True, blank=True)
    cleared_because = models.CharField(max_length=300, default="", blank=True)

    class Meta:
        ordering = ["-broke_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["model_id", "features"],
                condition=Q(cleared_at=None),
                name="broken_once_until_cleared",
            ),
            models.CheckConstraint(
                condition=Q(cleared_at=None) | ~Q(cleared_because=""), name="cleared_for_a_reason"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model_id} with {', '.join(self.features) or 'plain text'}"
