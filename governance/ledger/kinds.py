"""The kinds of ledger entries, and how a charge was found."""

from django.db import models


class EntryKind(models.TextChoices):
    """Why money moved. A charge or a void resolves the hold of the same id.

    A credit gives money back: somebody decided so, or what a call cost became known late. A correction makes
    up the difference to the right price. Both name the charge; an overrun does, or the hold of the charge.

    A transfer moves a limit, not what is spent: its two entries, below and above zero, share their call_id.
    """

    CHARGE = "charge"
    VOID = "void"
    CREDIT = "credit"
    CORRECTION = "correction"
    OVERRUN = "overrun"
    TRANSFER = "transfer"


class Basis(models.TextChoices):
    """How a charge was found: from the provider's usage, from a bound on it, or the whole hold."""

    EXACT = "exact"
    BOUNDED = "bounded"
    FULL_HOLD = "full_hold"
