"""Tenants with four budgets each, in a database that is not the test process's own.

usage: python -m tests.soak.tenants LIMIT_USD…       prints their keys, one JSON list
"""

import json
import sys

import django

django.setup()

from tests.harness import make_tenant  # noqa: E402


def main() -> None:
    from governance.budgets.limits import set_budget
    from governance.core.money import usd_to_nanos
    from tenants.scope import platform_scope

    keys = []
    for limit_usd in sys.argv[1:]:
        account = make_tenant(limit_usd)
        keys.append(account.key)
        limit_nanos = usd_to_nanos(limit_usd)
        with platform_scope():
            set_budget(account.tenant, scope="tenant", period="day", limit_nanos=limit_nanos * 2)
            for period in ("day", "total"):
                set_budget(
                    account.tenant,
                    scope="key",
                    ref=str(account.issued.key.pk),
                    period=period,
                    limit_nanos=limit_nanos * 2,
                )
    print(json.dumps(keys))


if __name__ == "__main__":
    main()
