"""The real thing with one rule broken: what a detector must catch. In test databases only."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg


@contextmanager
def broken_function(owner: psycopg.Connection[Any], call: str, rule: str, instead: str) -> Iterator[None]:
    """The SQL function that the statement `call` calls, with the text `rule` replaced; put back at the end.

    AssertionError when the function does not contain the rule: a twin must not become honest unnoticed.
    """
    found = re.search(r"\b(desk_\w+)\(", call)
    assert found, call
    [(original,)] = owner.execute("SELECT pg_get_functiondef(%s::regproc)", [found[1]]).fetchall()
    assert rule in original, f"{found[1]} says it otherwise now: {rule}"
    owner.execute(original.replace(rule, instead).encode())
    try:
        yield
    finally:
        owner.execute(original.encode())
