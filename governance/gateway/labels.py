"""What a classifier said of texts that came before: in this process, and in Valkey, where all workers look.

Of a text there is a digest under its tenant's own key, and nothing else.
"""

from collections import OrderedDict
from time import monotonic

from governance.gateway.lookups import Lookups
from governance.valkey.link import Link

LABELS = ("simple", "complex", "edge")
LABELS_KEPT_MAX = 50_000
"""About 10 MB."""


class Labels:
    """The newest labels of this process, and those of all."""

    def __init__(self, link: Link, lookups: Lookups, kept_max: int = LABELS_KEPT_MAX) -> None:
        """`link` is for writing."""
        self._link = link
        self._lookups = lookups
        self._kept: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        self._kept_max = kept_max

    def __len__(self) -> int:
        return len(self._kept)

    async def find(self, digest: bytes) -> str | None:
        """The label; None where there is none, or nobody can say in time."""
        found = self._kept.get(digest)
        if found is not None and found[1] >= monotonic():
            self._kept.move_to_end(digest)
            return found[0]
        value = await self._lookups.get(_name(digest), counted=False)
        label = value.decode("ascii", "replace") if value else None
        return label if label in LABELS else None

    def keep(self, digest: bytes, label: str, seconds: int) -> None:
        """For so long; nobody waits until it is written."""
        if not seconds:
            return
        self._kept[digest] = (label, monotonic() + seconds)
        self._kept.move_to_end(digest)
        if len(self._kept) > self._kept_max:
            self._kept.popitem(last=False)
        self._link.tell(("SET", _name(digest), label, "EX", seconds))

    def stop(self) -> None:
        self._link.close()


def _name(digest: bytes) -> str:
    return f"exchequer:label:{digest.hex()}"
