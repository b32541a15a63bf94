"""What the commands about tenants share."""

from abc import abstractmethod
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from governance.audit.events import Actor
from tenants.keys import KeyStateError
from tenants.lookups import NotFound
from tenants.pauses import PauseRefused
from tenants.scope import platform_scope
from tenants.secrets import CannotDecrypt, SecretsMisconfigured

_EXPECTED = (NotFound, KeyStateError, PauseRefused, SecretsMisconfigured, CannotDecrypt)


class PlatformCommand(BaseCommand):
    """A command that works for all tenants. Expected errors end it with one sentence, not a traceback."""

    @property
    def actor(self) -> Actor:
        """Whom the audit trail names."""
        return Actor(f"manage.py {type(self).__module__.rpartition('.')[2]}")

    def handle(self, *args: Any, **options: Any) -> str | None:
        try:
            with platform_scope():
                return self.work(**options)
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        except _EXPECTED as error:
            raise CommandError(str(error)) from None

    @abstractmethod
    def work(self, **options: Any) -> str | None:
        """The command itself; what it returns is printed."""
