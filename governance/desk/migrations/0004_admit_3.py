"""desk_admit_3: like desk_admit_2, with holds that may wait, in order of arrival across processes.

A front ticket on a period row says: a call that came at `since` needs so much of this row and waits for it.
There is one a process, of its oldest call that waits there: {lease id: [since, amount, void from]}. A ticket is
void after 200 ms; its worker renews it while the call waits.
"""

from django.db import migrations

# Who comes before whom is decided by `since` alone, and who waits holds nothing: so nobody waits for somebody
# younger, and the oldest waits for calls in flight only. A hold passes older tickets only where it fits
# beside all of them. A ticket is put on each leg without room for the hold, unless an older one of the same
# process is there, and is taken away from the others.
#
# waiting_since: microseconds of the epoch, as an earlier refusal gave them; 0 for a first try that would
# wait; -1 for one that would not. Of several legs that refuse, the one told about is one that has too little
# left even without calls in flight, then the one with the least room. For the rest see 0003_raises.
ADMIT_3 = """
CREATE FUNCTION desk_admit_3(
    periods bigint[], hold_ids uuid[], tenant_ids bigint[], amounts bigint[], price_versions bigint[],
    memos text[], leg_counts bigint[], leg_positions bigint[], waiting_since bigint[], of_lease bigint
) RETURNS TABLE (refused_by bigint, limit_nanos bigint, spent_nanos bigint, held_nanos bigint, closed boolean,
                 since bigint, ahead_nanos bigint)
LANGUAGE plpgsql AS $$
DECLARE
    at timestamptz := exchequer_now();
    now_micros bigint := extract(epoch FROM at) * 1000000;
    void_from bigint := now_micros + 200000;
    hard boolean[]; is_open boolean[]; limits bigint[]; spents bigint[]; helds bigint[]; before bigint[];
    tickets jsonb[];
    oldest bigint[]; newest bigint[]; reserved bigint[];  -- of the live tickets of a leg; NULL where is none
    touched integer[] := '{}';
    admitted integer[] := '{}';
    first_leg integer := 1;
    last_leg integer;
    leg integer;
    refusing integer;
    never boolean;
    ahead bigint;
    room bigint;
    rooms bigint[];  -- for the hold that is looked at
    least_room bigint;
    tightest integer;
    mine jsonb; low bigint; high bigint; total bigint;
    own text := of_lease::text;
BEGIN
    SELECT array_agg(p.ceiling_nanos IS NOT NULL ORDER BY p.id),
           array_agg(p.starts_at <= at AND at < p.ends_at ORDER BY p.id),
           array_agg(p.limit_nanos + CASE WHEN p.raised_until > at THEN p.raised_nanos ELSE 0 END ORDER BY p.id),
           array_agg(p.spent_nanos ORDER BY p.id), array_agg(p.held_nanos ORDER BY p.id),
           array_agg(p.fronts ORDER BY p.id)
    INTO hard, is_open, limits, spents, helds, tickets
    FROM ledger_budgetperiod p WHERE p.id = ANY(periods);
    IF cardinality(helds) IS DISTINCT FROM cardinality(periods) THEN
        RAISE EXCEPTION 'a budget period of this batch does not exist' USING ERRCODE = 'EXQ02';
    END IF;
    before := helds;
    FOR leg IN 1 .. cardinality(periods) LOOP
        IF tickets[leg] IS NOT NULL THEN
            SELECT jsonb_object_agg(key, value), min((value->>0)::bigint), max((value->>0)::bigint),
                   sum((value->>1)::bigint)
            INTO mine, low, high, total
            FROM jsonb_each(tickets[leg]) WHERE (value->>2)::bigint > now_micros;
            tickets[leg] := mine; oldest[leg] := low; newest[leg] := high; reserved[leg] := total;
        END IF;
    END LOOP;

    FOR i IN 1 .. cardinality(hold_ids) LOOP
        refusing := NULL;
        never := false;
        ahead_nanos := 0;
        since := CASE WHEN waiting_since[i] > 0 THEN waiting_since[i] ELSE now_micros + i END;
        last_leg := first_leg + leg_counts[i] - 1;
        FOR k IN first_leg .. last_leg LOOP
            leg := leg_positions[k];
            IF NOT is_open[leg] THEN
                refusing := leg;
                EXIT;
            ELSIF hard[leg] AND amounts[i] > 0 THEN
                IF oldest[leg] < since THEN
                    ahead := reserved[leg];
                    IF newest[leg] >= since THEN
                        SELECT sum((value->>1)::bigint) INTO ahead
                        FROM jsonb_each(tickets[leg]) WHERE (value->>0)::bigint < since;
                    END IF;
                ELSE
                    ahead := 0;
                END IF;
                room := limits[leg] - spents[leg] - helds[leg] - ahead;
                rooms[leg] := room;
                IF amounts[i] > limits[leg] - spents[leg] THEN
                    IF NOT never OR room < least_room THEN
                        refusing := leg; never := true; least_room := room;
                    END IF;
                ELSIF amounts[i] > room AND NOT never AND (refusing IS NULL OR room < least_room) THEN
                    refusing := leg; least_room := room; ahead_nanos := ahead;
                END IF;
            END IF;
        END LOOP;
        closed := NOT is_open[refusing];
        IF never OR closed THEN
            ahead_nanos := 0;
        END IF;
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
        IF waiting_since[i] > 0 OR (waiting_since[i] = 0 AND refusing IS NOT NULL) THEN
            FOR k IN first_leg .. last_leg LOOP
                leg := leg_positions[k];
                mine := tickets[leg]->own;
                IF refusing IS NOT NULL AND NOT never AND NOT closed AND hard[leg]
                   AND amounts[i] > rooms[leg] THEN
                    CONTINUE WHEN (mine->>0)::bigint < since
                        OR ((mine->>0)::bigint = since AND (mine->>2)::bigint > now_micros + 130000);
                    tickets[leg] := coalesce(tickets[leg], '{}')
                        || jsonb_build_object(own, jsonb_build_array(since, amounts[i], void_from));
                ELSIF (mine->>0)::bigint = since THEN
                    tickets[leg] := nullif(tickets[leg] - own, '{}');
                ELSE
                    CONTINUE;
                END IF;
                touched := touched || leg;
                SELECT min((value->>0)::bigint), max((value->>0)::bigint), sum((value->>1)::bigint)
                INTO low, high, total FROM jsonb_each(tickets[leg]);
                oldest[leg] := low; newest[leg] := high; reserved[leg] := total;
            END LOOP;
        END IF;
        refused_by := periods[refusing];
        limit_nanos := limits[tightest]; spent_nanos := spents[tightest]; held_nanos := helds[tightest];
        first_leg := last_leg + 1;
        RETURN NEXT;
    END LOOP;

    IF cardinality(touched) > 0 THEN
        UPDATE ledger_budgetperiod p SET fronts = t.fronts
        FROM unnest(periods, tickets) WITH ORDINALITY AS t(id, fronts, place)
        WHERE p.id = t.id AND t.place = ANY(touched);
    END IF;

    UPDATE ledger_budgetperiod p SET
        held_nanos = t.held,
        ceiling_nanos = CASE WHEN p.ceiling_nanos IS NULL THEN NULL ELSE greatest(p.ceiling_nanos, t.limit_now) END
    FROM unnest(periods, helds, before, limits) AS t(id, held, held_before, limit_now)
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

DROP_ADMIT_3 = (
    "DROP FUNCTION desk_admit_3(bigint[], uuid[], bigint[], bigint[], bigint[], text[], bigint[], bigint[],"
    " bigint[], bigint)"
)


class Migration(migrations.Migration):
    dependencies = [("desk", "0003_raises"), ("ledger", "0003_front_tickets")]

    operations = [migrations.RunSQL(ADMIT_3, DROP_ADMIT_3)]
