"""What the documentation refers to exists."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    [*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md"), *PROJECT.glob("governance/*/README.md")]
)
_TEST = re.compile(r"\b(tests/[\w/]+\.py)(?:::(\w+))?")
_LINK = re.compile(r"\]\(([\w./-]+)(?:#[\w-]+)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_a_page_names_tests_and_files_that_exist(page: Path) -> None:
    text = page.read_text()
    missing = [link for link in _LINK.findall(text) if not (page.parent / link).exists()]
    for file, name in _TEST.findall(text):
        found = PROJECT / file
        if not found.is_file() or (name and not re.search(rf"def {name}\b", found.read_text())):
            missing.append(f"{file}::{name}")
    assert not missing
