"""The workload of `python -m bench.savings`, a short one: what it prints agrees with what was billed."""

import subprocess
import sys

from django.conf import settings


def test_rows_layers_ledger_and_the_simulators_bill_agree_to_the_nano_dollar() -> None:
    """With repeats, shorter prompts, other models and a classifier at once."""
    ran = subprocess.run(
        [sys.executable, "-m", "bench.savings", "--requests", "200"],
        cwd=settings.BASE_DIR,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for layer in ("response", "Shorter prompt", "Another model", "Classifier"):
        assert layer in ran.stdout
