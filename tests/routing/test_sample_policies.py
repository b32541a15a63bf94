"""The policies of the documentation are read and checked by the real reader, and do what they say."""

from pathlib import Path

import pytest

from governance.console.policy_forms import SAMPLE
from governance.routing.drafts import check_draft

SAMPLES = sorted((Path(__file__).resolve().parents[2] / "docs" / "policies").glob("*.yaml"))


@pytest.mark.parametrize("source", [*(path.read_text() for path in SAMPLES), SAMPLE])
def test_a_sample_has_neither_a_problem_nor_a_warning(source: str) -> None:
    checked = check_draft(source)
    assert checked.problems == checked.warnings == ()
    assert checked.policy is not None
