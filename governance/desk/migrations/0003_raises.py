"""Admission knows raises that end by themselves, and refuses nothing that costs nothing."""

from django.db import migrations

# Holds in the given order, greedy, all legs or none, against the limit (never the ceiling). Soft rows
# have no ceiling and never refuse. The limit is the row's and, until it ends, the raise: no process has to
# do anything when a raise ends. What costs nothing is never refused for money. `leg_positions` are 1-based
# positions in `periods`, which is sorted and distinct; `leg_counts` says how many belong to each hold. The
# figures of a row are those of the hard leg with the least left: of the one that refuses, or after this
# hold was taken. The ceiling follows the limit, not the holds: its CHECK still guards the arithmetic here.
ADMIT = """
CREATE FUNCTION desk_admit_2(
    periods bigint[], hold_ids uuid[], tenant_ids bigint[], amounts bigint[], price_versions bigint[],
    memos text[], leg_counts bigint[], leg_positions bigint[], of_lease bigint
) RETURNS TABLE (refused_by bigint, limit_nanos bigint, spent_nanos bigint, held_nanos bigint, closed boolean)
LANGUAGE plpgsql AS $$
DECLARE
    at timestamptz := exchequer_now();
    hard boolean[]; is_open boolean[]; limits bigint[]; spents bigint[]; helds bigint[]; before bigint[];
    admitted integer[] := '{}';
    first_leg integer := 1;
    last_leg integer;
    leg integer;
    refusing integer;
    tightest integer;
BEGIN
    SELECT array_agg(p.ceiling_nanos IS NOT NULL ORDER BY p.id),
           array_agg(p.starts_at <= at AND at < p.ends_at ORDER BY p.id),
           array_agg(p.limit_nanos + CASE WHEN p.raised_until > at THEN p.raised_nanos ELSE 0 END ORDER BY p.id),
           array_agg(p.spent_nanos ORDER BY p.id),
           array_agg(p.held_nanos ORDER BY p.id)
    INTO hard, is_open, limits, spents, helds
    FROM ledger_budgetperiod p WHERE p.id = ANY(periods);
    IF cardinality(helds) IS DISTINCT FROM cardinality(periods) THEN
        RAISE EXCEPTION 'a budget period of this batch does not exist' USING ERRCODE = 'EXQ02';
    END IF;
    before := helds;

    FOR i IN 1 .. cardinality(hold_ids) LOOP
        refusing := NULL;
        last_leg := first_leg + leg_counts[i] - 1;
        FOR k IN first_leg .. last_leg LOOP
            leg := leg_positions[k];
            IF NOT is_open[leg] THEN
                refusing := leg;
                EXIT;
            ELSIF hard[leg] AND amounts[i] > 0 AND amounts[i] > limits[leg] - spents[leg] - helds[leg] AND (
                refusing IS NULL
                OR limits[leg] - spents[leg] - helds[leg]
                   < limits[refusing] - spents[refusing] - helds[refusing]
            ) THEN
                refusing := leg;  -- of several, the one with the least left is the one to tell about
            END IF;
        END LOOP;
        tightest := refusing;
        IF refusing IS NULL THEN
            FOR k IN first_leg .. last_leg LOOP
                leg := leg_positions[k];
                helds[leg] := helds[leg] + amounts[i];
                IF hard[leg] AND (
                    tightest IS NULL
                    OR limits[leg] - spents[leg] - helds[leg]
                       < limits[tightest] - spents[tightest] - helds[tightest]
                ) THEN
                    tightest := leg;
                END IF;
            END LOOP;
            admitted := admitted || i;
        END IF;
        refused_by := periods[refusing]; closed := NOT is_open[refusing];
        limit_nanos := limits[tightest]; spent_nanos := spents[tightest]; held_nanos := helds[tightest];
        first_leg := last_leg + 1;
        RETURN NEXT;
    END LOOP;

    UPDATE ledger_budgetperiod p SET
        held_nanos = t.held,
        ceiling_nanos = CASE WHEN p.ceiling_nanos IS NULL THEN NULL ELSE greatest(p.ceiling_nanos, t.limit_now) END
    FROM unnest(periods, limits, helds, before) AS t(id, limit_now, held, held_before)
    WHERE p.id = t.id AND t.held <> t.held_before;

    INSERT INTO ledger_hold (id, tenant_id, period_ids, amount_nanos, price_version, lease_id, placed_at, memo)
    SELECT t.hold_id, t.tenant_id,
           (SELECT array_agg(periods[position] ORDER BY periods[position])
            FROM unnest(leg_positions[(t.leg_end - t.leg_count + 1)::int : t.leg_end::int]) AS position),
           t.amount, t.price_version, of_lease, at, t.memo::jsonb
    FROM (
        SELECT u.*, sum(u.leg_count) OVER (ORDER BY u.place) AS leg_end
        FROM unnest(hold_ids, tenant_ids, amounts, price_versions, memos, leg_counts)
             WITH ORDINALITY AS u(hold_id, tenant_id, amount, price_version, memo, leg_count, place)
    ) AS t
    WHERE t.place = ANY(admitted);
END $$;
"""

DROP_ADMIT = (
    "DROP FUNCTION desk_admit_2(bigint[], uuid[], bigint[], bigint[], bigint[], text[], bigint[], bigint[], bigint)"
)


class Migration(migrations.Migration):
    dependencies = [("desk", "0002_functions"), ("ledger", "0002_scopes")]

    operations = [migrations.RunSQL(ADMIT, DROP_ADMIT)]
