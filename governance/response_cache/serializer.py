"""The serializer of the cache alias `responses`: bytes as they are. Unpickling what anybody may have put into
a cache would run whatever they like."""

from typing import Any


class SealedBytes:
    """What django-redis asks of a serializer."""

    def __init__(self, options: dict[str, Any]) -> None:
        pass

    def dumps(self, value: Any) -> bytes:
        if not isinstance(value, bytes):
            raise TypeError("The cache of responses takes sealed entries, which are bytes.")
        return value

    def loads(self, value: bytes) -> bytes:
        return value
