"""`make soak KILLS=1000`: kill -9 and PostgreSQL crashes under load, and what the ledger says afterwards.

    KILLS=1000     kill a random gateway worker so often (0: never)
    CRASHES=20     kill -9 PostgreSQL so often on the way; by default once for each 50 kills
    CALLS=100000   end after so many calls        SECONDS=600   end after so long
    SEED=7         the same dice again            WORKERS=4     gateway processes

It starts PostgreSQL, the simulator and the workers itself and touches nothing else. The report names
the seed; JSON is kept under .local/soak/. The exit status is 1 when anything was lost, doubled, stuck or
over.
"""

import json
import os
import secrets
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

os.environ["DJANGO_SETTINGS_MODULE"] = "governance.settings"
for _name in [name for name in os.environ if name.startswith(("EXCHEQUER_", "ANTHROPIC_"))]:
    del os.environ[_name]  # the developer's own settings are no part of a soak

import django  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import Progress  # noqa: E402
from rich.table import Table  # noqa: E402

from governance.ops.env_files import new_secrets  # noqa: E402

PROJECT = Path(__file__).resolve().parents[2]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="exq-soak-") as folder:
        os.environ |= {**new_secrets(), "EXCHEQUER_STATE_DIR": folder}
        django.setup()
        from tests.soak.run import Plan, soak

        kills = _number("KILLS", 100)
        plan = Plan(
            kills=kills,
            crashes=_number("CRASHES", kills // 50),
            calls_max=_number("CALLS", 0),
            seconds_max=_number("SECONDS", 0),
            seed=_number("SEED", secrets.randbelow(1_000_000)),
            workers=_number("WORKERS", 4),
        )
        if not (plan.kills or plan.calls_max or plan.seconds_max):
            sys.exit("A soak needs an end: KILLS, CALLS or SECONDS above zero.")
        with Progress(transient=True) as progress:
            task = progress.add_task(f"seed {plan.seed}", total=plan.kills or None)
            report = soak(
                plan,
                Path(folder),
                lambda so_far: progress.update(
                    task,
                    completed=so_far.kills,
                    description=f"seed {plan.seed}: {so_far.kills} kills, {so_far.crashes} crashes, "
                    f"{so_far.calls} calls",
                ),
            )
    table = Table("", "", title=f"Soak, seed {plan.seed}", show_header=False)
    for name, value in asdict(report).items():
        if name not in ("plan", "breaches"):
            table.add_row(name.replace("_", " "), str(value))
    table.add_row("breaches", str(len(report.breaches)))
    Console().print(table)
    for breach in report.breaches[:20]:
        print(breach)
    kept = PROJECT / ".local" / "soak" / f"{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(asdict(report), indent=1, default=str))
    print(f"{'Sound' if report.sound else 'NOT SOUND'}. Report: {kept}")
    sys.exit(0 if report.sound else 1)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdigit():
        sys.exit(f"{name} is a whole number of zero or more, not {text}.")
    return int(text)


if __name__ == "__main__":
    main()
