"""Telling the people of a tenant that one of its keys was paused by itself."""

import logging
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.mail import EmailMessage
from django.db import transaction
from django.db.models import Q
from django.template.loader import render_to_string
from django.urls import reverse

from governance.core.clock import utcnow
from tenants.models import ApiKey, Membership, Pause
from tenants.scope import platform_scope, tenant_scope

log = logging.getLogger(__name__)

TELL_DAYS_MAX = 7
"""A mail server that is away for longer has lost the news."""


def tell_of_automatic_pauses() -> int:
    """Mail each automatic pause to the tenant's people, once or, after a crash, twice under one Message-ID.
    How many were told; what a mail server refuses is tried again the next time."""
    told = 0
    with platform_scope():
        since = utcnow() - timedelta(days=TELL_DAYS_MAX)
        waiting = Pause.objects.filter(is_automatic=True, told_at=None, began_at__gt=since)
        for pause_id in list(waiting.order_by("pk").values_list("pk", flat=True)):
            with transaction.atomic():
                row = (
                    Pause.objects.select_for_update(skip_locked=True)
                    .filter(pk=pause_id, told_at=None)
                    .first()
                )
                if row is None:
                    continue
                try:
                    _tell(row)
                except OSError as error:  # of which SMTP's are kinds
                    log.warning("Nobody could be told of %s yet: %s", row, error)
                    return told
                row.told_at = utcnow()
                row.save(update_fields=["told_at"])
                told += 1
    return told


def _tell(row: Pause) -> None:
    with tenant_scope(row.tenant_id):
        key = ApiKey.objects.filter(lineage_id=row.scope_ref).order_by("-pk").first()
        people = Membership.objects.filter(tenant_id=row.tenant_id, user__is_active=True).filter(
            Q(team=None, role__in=[Membership.Role.OWNER, Membership.Role.ADMIN])
            | Q(team=key and key.team_id, team__isnull=False, role=Membership.Role.LEAD)
        )
        addresses = sorted({email for email in people.values_list("user__email", flat=True) if email})
        text = render_to_string("limits/key_paused.txt", _facts(row, key))
    if not addresses:
        log.error("Nobody of tenant %d has an e-mail address to be told of %s.", row.tenant_id, row)
    for address in addresses:
        EmailMessage(
            f"Exchequer: the key “{key and key.name}” was paused",
            text,
            to=[address],
            headers={"Message-ID": f"<pause-{row.pk}-{row.began_at:%Y%m%d%H%M%S}@exchequer>"},
        ).send()


def _facts(row: Pause, key: ApiKey | None) -> dict[str, Any]:
    console = settings.CONSOLE_PUBLIC_URL
    return {
        "key": key,
        "tenant": row.tenant,
        "pause": row,
        "pause_page": console + reverse("admin:tenants_pause_change", args=[row.pk]),
        "key_page": key and console + reverse("admin:tenants_apikey_change", args=[key.pk]),
    }
