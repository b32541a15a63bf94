"""What needs a person is logged once per name and process, and nobody can use up another's log lines."""

import logging
from collections import Counter, defaultdict
from typing import Literal

log = logging.getLogger(__name__)

type Kind = Literal["beta", "field", "model"]

NAMES_PER_KIND_MAX = 5_000
NAMES_PER_TENANT_MAX = 50
"""Of each kind. Clients choose these names freely."""

_SENTENCES: dict[Kind, str] = {
    "beta": "The beta %r is not known; worst cases with it are assumed.",
    "field": "The body field %r is not known; worst cases with it are assumed.",
    "model": "The model %r has no price; the dearest known is held and charged.",
}


class Alerts:
    """The names that this process has logged."""

    def __init__(self) -> None:
        self._logged: defaultdict[Kind, set[str]] = defaultdict(set)
        self._of_tenant: Counter[tuple[Kind, int]] = Counter()

    def unknown(self, kind: Kind, name: str, tenant_id: int) -> bool:
        """Log that we do not know the name, if it is the first time; whether it was logged."""
        logged = self._logged[kind]
        if name in logged or len(logged) >= NAMES_PER_KIND_MAX:
            return False
        if self._of_tenant[kind, tenant_id] >= NAMES_PER_TENANT_MAX:
            return False
        logged.add(name)
        self._of_tenant[kind, tenant_id] += 1
        log.warning(_SENTENCES[kind], name)
        return True
