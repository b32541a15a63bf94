"""The claims of `Idempotency-Key`, and admission of a batch in which some holds have one."""

from django.db import migrations, models

# Claims come first, each on its own, in the order of their keys, so that two processes cannot wait for each
# other in a ring. Whoever finds a live claim of another call is not admitted at all: it takes no room that
# somebody else could have. The others go to desk_admit_3 as ever; a hold that it refuses leaves no claim.
# `claim_places` are 1-based positions among the holds. A row says of a hold that lost: the claim's call, its
# body, whether it is still in flight, and for how long. A claim that has just gone is told as one in flight
# without a body: try again.
ADMIT_CLAIMED = """
CREATE FUNCTION desk_admit_claimed(
    periods bigint[], hold_ids uuid[], tenant_ids bigint[], amounts bigint[], price_versions bigint[],
    memos text[], leg_counts bigint[], leg_positions bigint[], waiting_since bigint[], of_lease bigint,
    claim_places bigint[], lineage_ids bigint[], idempotency_keys text[], body_digests bytea[],
    call_ids uuid[], lifetime_seconds bigint
) RETURNS TABLE (
    refused_by bigint, limit_nanos bigint, spent_nanos bigint, held_nanos bigint, closed boolean,
    since bigint, ahead_nanos bigint,
    lost boolean, first_call_id uuid, first_body_digest bytea, first_hold_id uuid, in_flight boolean,
    age_seconds bigint
)
LANGUAGE plpgsql AS $$
DECLARE
    at timestamptz := exchequer_now();
    lost_claims bigint[] := '{}';
    free bigint[];
    free_legs bigint[];
    refusals bigint[]; limits bigint[]; spents bigint[]; helds bigint[]; closings boolean[]; sinces bigint[]; aheads bigint[];
    c bigint;
    next_free integer := 1;
BEGIN
    FOR c IN 1 .. cardinality(claim_places) LOOP
        DELETE FROM desk_idempotencyclaim k
        WHERE k.tenant_id = tenant_ids[claim_places[c]] AND k.lineage_id = lineage_ids[c]
          AND k.idempotency_key = idempotency_keys[c] AND k.expires_at <= at
          AND NOT EXISTS (SELECT FROM ledger_hold h WHERE h.id = k.hold_id);
        INSERT INTO desk_idempotencyclaim (
            hold_id, tenant_id, lineage_id, idempotency_key, body_digest, call_id, placed_at, expires_at
        ) VALUES (
            hold_ids[claim_places[c]], tenant_ids[claim_places[c]], lineage_ids[c], idempotency_keys[c],
            body_digests[c], call_ids[c], at, at + make_interval(secs => lifetime_seconds)
        ) ON CONFLICT ON CONSTRAINT one_claim_per_idempotency_key DO NOTHING;
        IF NOT FOUND THEN
            lost_claims := lost_claims || c;
        END IF;
    END LOOP;

    free := ARRAY(
        SELECT p FROM generate_series(1, cardinality(hold_ids)) AS p
        WHERE p <> ALL (ARRAY(SELECT claim_places[l] FROM unnest(lost_claims) AS l)) ORDER BY p
    );
    free_legs := ARRAY(
        SELECT leg_positions[leg]
        FROM (
            SELECT u.place, sum(u.leg_count) OVER (ORDER BY u.place) AS leg_end, u.leg_count
            FROM unnest(leg_counts) WITH ORDINALITY AS u(leg_count, place)
        ) AS t, generate_series(t.leg_end - t.leg_count + 1, t.leg_end) AS leg
        WHERE t.place = ANY(free) ORDER BY leg
    );
    SELECT array_agg(a.refused_by ORDER BY a.place), array_agg(a.limit_nanos ORDER BY a.place),
           array_agg(a.spent_nanos ORDER BY a.place), array_agg(a.held_nanos ORDER BY a.place),
           array_agg(a.closed ORDER BY a.place), array_agg(a.since ORDER BY a.place),
           array_agg(a.ahead_nanos ORDER BY a.place)
    INTO refusals, limits, spents, helds, closings, sinces, aheads
    FROM desk_admit_3(
        periods, ARRAY(SELECT hold_ids[p] FROM unnest(free) AS p),
        ARRAY(SELECT tenant_ids[p] FROM unnest(free) AS p), ARRAY(SELECT amounts[p] FROM unnest(free) AS p),
        ARRAY(SELECT price_versions[p] FROM unnest(free) AS p), ARRAY(SELECT memos[p] FROM unnest(free) AS p),
        ARRAY(SELECT leg_counts[p] FROM unnest(free) AS p), free_legs,
        ARRAY(SELECT waiting_since[p] FROM unnest(free) AS p), of_lease
    ) WITH ORDINALITY
      AS a(refused_by, limit_nanos, spent_nanos, held_nanos, closed, since, ahead_nanos, place);

    DELETE FROM desk_idempotencyclaim k
    WHERE k.hold_id = ANY (ARRAY(SELECT hold_ids[p] FROM unnest(claim_places) AS p))
      AND NOT EXISTS (SELECT FROM ledger_hold h WHERE h.id = k.hold_id);

    FOR i IN 1 .. cardinality(hold_ids) LOOP
        lost := i <> ALL (free);
        IF lost THEN
            c := array_position(claim_places, i::bigint);
            refused_by := NULL; limit_nanos := NULL; spent_nanos := NULL; held_nanos := NULL; closed := NULL;
            since := NULL; ahead_nanos := NULL;
            SELECT k.call_id, k.body_digest, k.hold_id, EXISTS (SELECT FROM ledger_hold h WHERE h.id = k.hold_id),
                   extract(epoch FROM at - k.placed_at)::bigint
            INTO first_call_id, first_body_digest, first_hold_id, in_flight, age_seconds
            FROM desk_idempotencyclaim k
            WHERE k.tenant_id = tenant_ids[i] AND k.lineage_id = lineage_ids[c]
              AND k.idempotency_key = idempotency_keys[c];
        ELSE
            refused_by := refusals[next_free]; closed := closings[next_free]; limit_nanos := limits[next_free];
            spent_nanos := spents[next_free]; held_nanos := helds[next_free];
            since := sinces[next_free]; ahead_nanos := aheads[next_free];
            next_free := next_free + 1;
        END IF;
        RETURN NEXT;
    END LOOP;
END $$;
"""

DROP_ADMIT_CLAIMED = (
    "DROP FUNCTION desk_admit_claimed(bigint[], uuid[], bigint[], bigint[], bigint[], text[], bigint[], bigint[],"
    " bigint[], bigint, bigint[], bigint[], text[], bytea[], uuid[], bigint)"
)


class Migration(migrations.Migration):
    dependencies = [("desk", "0004_admit_3")]

    operations = [
        migrations.CreateModel(
            name="IdempotencyClaim",
            fields=[
                ("hold_id", models.UUIDField(primary_key=True, serialize=False)),
                ("tenant_id", models.BigIntegerField()),
                ("lineage_id", models.BigIntegerField()),
                ("idempotency_key", models.CharField(max_length=255)),
                ("body_digest", models.BinaryField()),
                ("call_id", models.UUIDField()),
                ("placed_at", models.DateTimeField()),
                ("expires_at", models.DateTimeField()),
            ],
            options={
                "indexes": [models.Index(fields=["expires_at"], name="claim_by_expiry")],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("tenant_id", "lineage_id", "idempotency_key"),
                        name="one_claim_per_idempotency_key",
                    )
                ],
            },
        ),
        migrations.RunSQL(ADMIT_CLAIMED, DROP_ADMIT_CLAIMED),
    ]
