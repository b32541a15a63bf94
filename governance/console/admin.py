"""Registers every page of the console; governance/urls.py loads it, in the console's process only."""

from governance.console import (
    admin_audit,
    admin_budgets,
    admin_cache,
    admin_calls,
    admin_credentials,
    admin_keys,
    admin_limits,
    admin_pauses,
    admin_policies,
    admin_prices,
    admin_requests,
    admin_rules,
    admin_tenants,
)

PAGES = (
    admin_audit,
    admin_budgets,
    admin_cache,
    admin_calls,
    admin_credentials,
    admin_keys,
    admin_limits,
    admin_pauses,
    admin_policies,
    admin_prices,
    admin_requests,
    admin_rules,
    admin_tenants,
)
"""Each registers itself when it is imported."""
