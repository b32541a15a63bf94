"""The short random pass: a few kills and a crash. `make soak KILLS=1000` is the long one."""

import random
from pathlib import Path

from tests.soak.run import Plan, soak


def test_random_kills_and_a_crash_of_the_database_lose_double_and_overspend_nothing(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    report = soak(Plan(kills=12, crashes=1, calls_max=0, seconds_max=30, seed=seed), tmp_path)
    assert report.breaches == [], f"seed {seed}"
    assert report.stuck == report.overspent_nanos == 0, f"seed {seed}"
    assert report.kills_with_calls_in_flight > 3, f"seed {seed}: the kills hit nobody"
    assert report.swept > 0, f"seed {seed}: no call was in flight when its worker died"
    assert report.billed > 100, f"seed {seed}"
