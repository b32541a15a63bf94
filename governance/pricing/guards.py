"""What the database itself refuses about prices, whoever asks."""

# A load is open for the transaction that makes it, and closed for ever after: rows are added to it and
# superseded by it then and only then.
PRICE_ROWS = """
CREATE FUNCTION exchequer_is_open_load(load_id bigint) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM pricing_pricebookversion
        WHERE id = load_id AND xact = pg_current_xact_id()::text::bigint
    )
$$;

CREATE FUNCTION exchequer_guard_prices() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' AND NEW.superseded_in_id IS NULL AND exchequer_is_open_load(NEW.added_in_id) THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' AND OLD.superseded_in_id IS NULL AND exchequer_is_open_load(NEW.superseded_in_id)
        AND to_jsonb(NEW) - 'superseded_in_id' = to_jsonb(OLD) - 'superseded_in_id'
    THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION '% on %: prices of the past are never overwritten; load a file with load_prices',
        TG_OP, TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER prices_stay BEFORE INSERT OR UPDATE OR DELETE ON pricing_pricerow
    FOR EACH ROW EXECUTE FUNCTION exchequer_guard_prices();
CREATE TRIGGER prices_stay BEFORE INSERT OR UPDATE OR DELETE ON pricing_knownmodel
    FOR EACH ROW EXECUTE FUNCTION exchequer_guard_prices();
CREATE TRIGGER prices_stay_all BEFORE TRUNCATE ON pricing_pricerow
    FOR EACH STATEMENT EXECUTE FUNCTION exchequer_guard_prices();
CREATE TRIGGER prices_stay_all BEFORE TRUNCATE ON pricing_knownmodel
    FOR EACH STATEMENT EXECUTE FUNCTION exchequer_guard_prices();
"""
DROP_PRICE_ROWS = """
DROP FUNCTION exchequer_guard_prices() CASCADE;
DROP FUNCTION exchequer_is_open_load(bigint);
"""

# The minute is room for clocks that differ between this machine and the one that wrote the date.
CONTRACTS = """
CREATE FUNCTION exchequer_guard_contract() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    now_about timestamptz := clock_timestamp() - interval '1 minute';
BEGIN
    IF OLD.effective_from > now_about THEN
        IF TG_OP = 'DELETE' THEN
            RETURN OLD;
        ELSIF NEW.effective_from > now_about THEN
            RETURN NEW;
        END IF;
    END IF;
    IF TG_OP = 'UPDATE'
        AND coalesce(OLD.effective_to, 'infinity') > now_about
        AND coalesce(NEW.effective_to, 'infinity') > now_about
        AND to_jsonb(NEW) - 'effective_to' - 'note' = to_jsonb(OLD) - 'effective_to' - 'note'
    THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'a contract price that has been in force is not changed; end it and agree on another'
        USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER contract_stays BEFORE UPDATE OR DELETE ON pricing_contractprice
    FOR EACH ROW EXECUTE FUNCTION exchequer_guard_contract();
"""
DROP_CONTRACTS = "DROP FUNCTION exchequer_guard_contract() CASCADE;"
