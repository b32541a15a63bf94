"""What a classifier said of texts that came before, in this process."""

from collections import OrderedDict
from time import monotonic

LABELS_KEPT_MAX = 50_000
"""About 10 MB."""


class Labels:
    """The newest labels of a process. Digests are keyed with the tenant's own key."""

    def __init__(self, kept_max: int = LABELS_KEPT_MAX) -> None:
        self._kept: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        self._kept_max = kept_max

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, digest: bytes) -> str | None:
        found = self._kept.get(digest)
        if found is None or found[1] < monotonic():
            return None
        self._kept.move_to_end(digest)
        return found[0]

    def keep(self, digest: bytes, label: str, seconds: int) -> None:
        if not seconds:
            return
        self._kept[digest] = (label, monotonic() + seconds)
        self._kept.move_to_end(digest)
        if len(self._kept) > self._kept_max:
            self._kept.popitem(last=False)
