"""Policies for tests of the call path."""

from textwrap import dedent

from governance.routing.policies import create_policy, find_policy, publish, save_draft
from tenants.scope import platform_scope
from tests.harness import Account


def govern(account: Account, text: str, *, scope: str = "tenant") -> None:
    """Publish the policy; calls of keys that no worker has seen yet are under it at once."""
    with platform_scope():
        ref = {"tenant": "", "key": str(account.issued.key.pk)}[scope]
        policy = find_policy(account.tenant, scope=scope, ref=ref)
        if policy is None:
            policy = create_policy(account.tenant, scope=scope, ref=ref, name="of the test")
        publish(save_draft(policy, dedent(text)))
