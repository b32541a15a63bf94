"""A tenant whose facts are written as the desk writes them, at any time of last month, and its file."""

import csv
import io
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.db import connection

from governance.calls.models import Attempt, Call
from governance.core.clock import utcnow
from governance.core.usage import Pass, Usage, total_usage
from governance.ledger.models import LedgerEntry
from governance.pricing.loading import load_book, load_contract_rates, newest_version
from tenants.keys import issue_key
from tenants.models import ApiKey, Team
from tenants.scope import platform_scope
from tests.harness import Account

THIS_MONTH = utcnow().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
LAST_MONTH = (THIS_MONTH - timedelta(days=1)).replace(day=1)
MONTH = f"{LAST_MONTH:%Y-%m}"
NOON = LAST_MONTH + timedelta(days=14, hours=12)
HAIKU, SONNET, OPUS = "claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5"


def id_at(moment: datetime) -> uuid.UUID:
    """A version 7 id of that moment."""
    milliseconds = int(moment.timestamp() * 1000)
    return uuid.UUID(int=milliseconds << 80 | 0x7 << 76 | 0b10 << 62 | secrets.randbits(62))


@dataclass
class Books:
    """One tenant's facts. Entries are written when the call came unless told."""

    account: Account
    folder: Path
    teams: dict[str, Team] = field(default_factory=dict)

    @property
    def tenant_id(self) -> int:
        return self.account.tenant.pk

    @property
    def key(self) -> ApiKey:
        return self.account.issued.key

    def team(self, name: str) -> Team:
        if name not in self.teams:
            with platform_scope():
                self.teams[name] = Team.objects.create(
                    tenant=self.account.tenant, name=name, slug=f"team-{len(self.teams)}"
                )
        return self.teams[name]

    def new_key(self, name: str) -> ApiKey:
        with platform_scope():
            return issue_key(self.account.tenant, name).key

    def charge(
        self,
        *passes: Pass,
        at: datetime = NOON,
        written_at: datetime | None = None,
        team: str | None = None,
        key: ApiKey | None = None,
        tags: dict[str, str] | None = None,
        basis: str = "exact",
        amount_nanos: int | None = None,
        call_id: uuid.UUID | None = None,
        call_goes_on: bool = False,
    ) -> LedgerEntry:
        """One attempt and its charge; the price is the book's, and what is charged too unless told. Without
        passes: nobody knows what was used."""
        key, written_at = key or self.key, written_at or at
        with platform_scope():
            version = newest_version(connection)
            terms = load_contract_rates(connection, self.tenant_id)
            cost = load_book(connection, version).with_contract(terms).rate(passes, at)
            charged = cost.cost_nanos if amount_nanos is None else amount_nanos
            shared: dict[str, Any] = {
                "tenant_id": self.tenant_id,
                "key_id": key.pk,
                "at": written_at,
                "xact": 1,
            }
            row = {**shared, **_usage(passes), "price_version": version, "held_nanos": charged}
            attempt = Attempt.objects.create(
                id=id_at(at),
                call_id=call_id or id_at(at),
                number=1,
                purpose="answer",
                basis=basis,
                cost_nanos=cost.cost_nanos if passes else charged,
                list_nanos=cost.list_nanos,
                cost_by_meter=cost.by_meter,
                usage_source="message",
                duration_ms=1,
                **row,
            )
            if not call_goes_on:
                self.call(attempt.call_id, team=team, tags=tags, **shared)
            return LedgerEntry.objects.create(
                id=attempt.pk,
                kind="charge",
                basis=basis,
                call_id=attempt.call_id,
                period_ids=[],
                amount_nanos=charged,
                held_nanos=charged,
                list_nanos=cost.list_nanos,
                price_version=version,
                reason="usage",
                **shared,
            )

    def call(self, call_id: uuid.UUID, *, team: str | None, tags: Any = None, **row: Any) -> None:
        with platform_scope():
            Call.objects.create(
                id=call_id,
                team_id=self.team(team).pk if team else None,
                tags=tags or {},
                endpoint="/v1/messages",
                stream=False,
                outcome=row.pop("outcome", "served"),
                status=200,
                reason="served",
                cache=row.pop("cache", "off"),
                decision={},
                attempts=1,
                held_nanos=0,
                cost_nanos=0,
                list_nanos=0,
                facts={},
                duration_ms=1,
                **row,
            )

    def correct(
        self, charge: LedgerEntry, kind: str, amount_nanos: int, *, at: datetime, reason: str
    ) -> None:
        with platform_scope():
            LedgerEntry.objects.create(
                id=id_at(at),
                kind=kind,
                tenant_id=charge.tenant_id,
                key_id=charge.key_id,
                call_id=charge.call_id,
                period_ids=[],
                amount_nanos=amount_nanos,
                held_nanos=0,
                list_nanos=0,
                price_version=charge.price_version,
                corrects_id=charge.pk,
                reason=reason,
                at=at,
                xact=1,
            )

    def nanos(self, since: datetime = LAST_MONTH, until: datetime = THIS_MONTH) -> int:
        """What the ledger says of the tenant's money, straight from its entries."""
        entries = [entry for entry in self.account.entries() if since <= entry.at < until]
        return sum(entry.amount_nanos for entry in entries if entry.kind != "overrun")

    @property
    def path(self) -> Path:
        return self.folder / "costs.csv"

    def export(self, *arguments: str, month: str = MONTH) -> list[dict[str, str]]:
        """Run the command; the rows of its file."""
        self.said = run(self.account.tenant.slug, month, "--to", str(self.path), *arguments)
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


def run(tenant: str, month: str, *arguments: str) -> str:
    out = io.StringIO()
    call_command("export_costs", "--tenant", tenant, "--month", month, *arguments, stdout=out)
    return out.getvalue()


def billed_nanos(rows: Sequence[dict[str, str]]) -> Decimal:
    return sum((Decimal(row["BilledCost"]) for row in rows), Decimal(0)) * 10**9


def used(model: str, *units: int, **served: Any) -> Pass:
    """Units in the order of METERS: input, cache writes of 5m and 1h, cache reads, output, web searches."""
    return Pass(model, Usage(*units), **served)


def _usage(passes: tuple[Pass, ...]) -> dict[str, Any]:
    if not passes:
        return {"requested_model": SONNET}
    usage, first = total_usage(passes), passes[0]
    return {
        "served_model": first.model,
        "service_tier": first.service_tier,
        "speed": first.speed,
        "inference_geo": first.inference_geo or None,
        **{name: getattr(usage, name) for name in usage.__struct_fields__},
        "passes": None
        if len(passes) == 1
        else [
            {
                "model": each.model,
                "speed": each.speed,
                "service_tier": each.service_tier,
                "inference_geo": each.inference_geo,
                "units": each.usage.units,
            }
            for each in passes
        ],
    }
