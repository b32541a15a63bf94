"""A CSV file by RFC 4180 that is there whole or not at all, and that no spreadsheet runs."""

import csv
import errno
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")  # Excel takes wide ones too


def harmless(text: str) -> str:
    """A text cell as a spreadsheet shows it instead of calculating it: names and tags come from people."""
    return f"'{text}" if text.startswith(_FORMULA) else text


@contextmanager
def csv_file(
    path: Path, columns: Sequence[str], numbers: Collection[str]
) -> Iterator[Callable[[Mapping[str, str]], None]]:
    """Gives a function that writes a row; what a row leaves out is empty. `numbers` are columns as they are.

    The file takes its name when the block ends without an error, and replaces an older one of that name, or
    the one that a link of that name leads to. Only its owner can read it. OSError.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():  # root could replace even /dev/null
        raise FileExistsError(errno.EEXIST, "It is there and no ordinary file")
    handle, temporary = tempfile.mkstemp(prefix=".export-", dir=path.parent)
    try:
        with open(handle, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)

            def write(row: Mapping[str, str]) -> None:
                cells = [(column, row.get(column, "")) for column in columns]
                writer.writerow([cell if column in numbers else harmless(cell) for column, cell in cells])

            yield write
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
