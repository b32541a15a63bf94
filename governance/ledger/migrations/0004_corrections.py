"""Corrections: entries that name the charge they correct, guarded by the database.

`ledger_correct` is the one way to write one: it moves the charge's own periods in the same transaction.
The trigger holds for every other way too: what is left of a charge is never below zero.
"""

from django.db import migrations, models

CORRECT = """
CREATE FUNCTION ledger_correct(
    of_charge uuid, new_id uuid, new_kind text, amount bigint, list_amount bigint, prices bigint, why text
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    charge ledger_ledgerentry;
    legs bigint[];
BEGIN
    SELECT * INTO charge FROM ledger_ledgerentry WHERE id = of_charge;
    -- The operator's account has no periods; everything else moves those of the charge, closed ones too.
    legs := CASE WHEN new_kind = 'overrun' THEN '{}' ELSE charge.period_ids END;
    PERFORM 1 FROM ledger_budgetperiod WHERE id = ANY(legs) ORDER BY id FOR NO KEY UPDATE;
    INSERT INTO ledger_ledgerentry (id, kind, tenant_id, key_id, call_id, period_ids, amount_nanos,
        held_nanos, list_nanos, price_version, corrects_id, reason, at, xact)
    VALUES (new_id, new_kind, charge.tenant_id, charge.key_id, charge.call_id, legs, amount,
        0, list_amount, prices, of_charge, why, exchequer_now(), pg_current_xact_id()::text::bigint);
    WITH moved AS (
        UPDATE ledger_budgetperiod p SET
            spent_nanos = p.spent_nanos + amount,
            ceiling_nanos = CASE WHEN p.ceiling_nanos IS NULL THEN NULL ELSE
                greatest(p.limit_nanos, p.spent_nanos + amount + p.held_nanos) END
        WHERE p.id = ANY(legs)
        RETURNING p.id, p.budget_id, p.tenant_id, p.limit_nanos, p.spent_nanos,
                  p.spent_nanos - amount AS before, p.alert_percents
    )
    INSERT INTO ledger_thresholdcrossing
        (period_id, budget_id, tenant_id, percent, spent_nanos, limit_nanos, at)
    SELECT m.id, m.budget_id, m.tenant_id, percent, m.spent_nanos, m.limit_nanos, exchequer_now()
    FROM moved m, unnest(m.alert_percents) AS percent
    WHERE m.before::numeric * 100 < m.limit_nanos::numeric * percent
      AND m.spent_nanos::numeric * 100 >= m.limit_nanos::numeric * percent
    ON CONFLICT (period_id, percent) DO NOTHING;
END $$;
"""
DROP_CORRECT = "DROP FUNCTION ledger_correct(uuid, uuid, text, bigint, bigint, bigint, text)"

# Two accounts of a charge: the tenant's (charge, credits, corrections) and the operator's (overruns).
GUARD = """
CREATE FUNCTION ledger_guard_correction() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    charge ledger_ledgerentry;
    remaining numeric;
BEGIN
    SELECT * INTO charge FROM ledger_ledgerentry
    WHERE id = NEW.corrects_id AND kind = 'charge' AND tenant_id = NEW.tenant_id AND call_id = NEW.call_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'a % names the charge that it corrects', NEW.kind USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.kind <> 'overrun' AND NEW.period_ids <> charge.period_ids THEN
        RAISE EXCEPTION 'a % has the legs of its charge', NEW.kind USING ERRCODE = 'check_violation';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('correction ' || NEW.corrects_id, 0));
    SELECT NEW.amount_nanos + coalesce(sum(amount_nanos), 0)
           + CASE WHEN NEW.kind = 'overrun' THEN 0 ELSE charge.amount_nanos END
    INTO remaining
    FROM ledger_ledgerentry
    WHERE corrects_id = NEW.corrects_id AND (kind = 'overrun') = (NEW.kind = 'overrun');
    IF remaining < 0 THEN
        RAISE EXCEPTION 'a % of % is more than is left of its charge', NEW.kind, NEW.amount_nanos
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER correction_within_its_charge BEFORE INSERT ON ledger_ledgerentry
    FOR EACH ROW WHEN (NEW.kind IN ('credit', 'correction') OR NEW.kind = 'overrun' AND NEW.amount_nanos < 0)
    EXECUTE FUNCTION ledger_guard_correction();
"""
DROP_GUARD = """
DROP TRIGGER correction_within_its_charge ON ledger_ledgerentry;
DROP FUNCTION ledger_guard_correction();
"""


class Migration(migrations.Migration):
    dependencies = [("ledger", "0003_front_tickets")]

    operations = [
        migrations.RemoveConstraint("ledgerentry", "overrun_has_no_legs"),
        migrations.AddConstraint(
            "ledgerentry",
            models.CheckConstraint(
                condition=~models.Q(kind="overrun") | ~models.Q(amount_nanos=0) & models.Q(period_ids__len=0),
                name="overrun_has_no_legs",
            ),
        ),
        migrations.AddIndex(
            "ledgerentry",
            models.Index(
                fields=["corrects_id"],
                condition=models.Q(corrects_id__isnull=False),
                name="entry_by_corrected",
            ),
        ),
        migrations.RunSQL(CORRECT, DROP_CORRECT),
        migrations.RunSQL(GUARD, DROP_GUARD),
    ]
