"""Every change to a tenant's settings bumps that tenant's version, by whatever road it came.

Gateway workers keep each tenant's settings compiled in memory. A trigger on every table that feeds
them writes a new number into `tenants_tenantversion`, in the transaction of the change; workers
compare numbers every second and reload what moved. The NOTIFY only makes that faster.

Compare per tenant, for inequality: `version <> the one I loaded`. Do not read "everything above the
highest version I know": transactions may commit in another order than they drew their numbers.
Tenant 0 stands for what concerns every tenant, such as prices and the operator's credentials.
"""

from django.db import migrations

NOTIFY_CHANNEL = "exchequer_tenant_version"
GLOBAL_TENANT_ID = 0

CREATE_FUNCTION = """
CREATE SEQUENCE tenants_version_seq;

CREATE FUNCTION exchequer_bump_version(changed_tenant_id bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO tenants_tenantversion AS current (tenant_id, version)
    VALUES (changed_tenant_id, nextval('tenants_version_seq'))
    ON CONFLICT (tenant_id) DO UPDATE SET version = nextval('tenants_version_seq');
    PERFORM pg_notify('exchequer_tenant_version', changed_tenant_id::text);
END $$;

CREATE FUNCTION exchequer_track_version() RETURNS trigger LANGUAGE plpgsql AS $$
-- TG_ARGV[0] is the column with the tenant's id; no such column, or NULL in it, means tenant 0.
DECLARE
    old_tenant_id bigint;
    new_tenant_id bigint;
BEGIN
    IF TG_OP <> 'INSERT' THEN
        old_tenant_id := coalesce((to_jsonb(OLD) ->> TG_ARGV[0])::bigint, 0);
        PERFORM exchequer_bump_version(old_tenant_id);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        new_tenant_id := coalesce((to_jsonb(NEW) ->> TG_ARGV[0])::bigint, 0);
        IF new_tenant_id IS DISTINCT FROM old_tenant_id THEN
            PERFORM exchequer_bump_version(new_tenant_id);
        END IF;
    END IF;
    RETURN NULL;
END $$;
"""
DROP_FUNCTION = """
DROP FUNCTION exchequer_track_version();
DROP FUNCTION exchequer_bump_version(bigint);
DROP SEQUENCE tenants_version_seq;
"""


def create_version_function() -> migrations.RunSQL:
    """The functions and the one global sequence; runs once, in the first migration of tenants."""
    return migrations.RunSQL(CREATE_FUNCTION, DROP_FUNCTION)


def track_versions(table: str, tenant_column: str | None) -> migrations.RunSQL:
    """A migration operation: from now on each change of a row of `table` bumps its tenant's version.

    `tenant_column` None is for tables that concern every tenant (tenant 0). The migration that uses
    this must depend on ("tenants", "0001_initial").
    """
    return migrations.RunSQL(
        f"CREATE TRIGGER {table}_version AFTER INSERT OR UPDATE OR DELETE ON {table} "
        f"FOR EACH ROW EXECUTE FUNCTION exchequer_track_version('{tenant_column or ''}')",
        f"DROP TRIGGER {table}_version ON {table}",
    )
