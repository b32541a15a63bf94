"""`make bench`: what a governed call costs, beside a bare proxy that governs nothing.

    python -m bench            five rounds, about five minutes
    python -m bench --quick    two short rounds: is it still about right?

The absolute figures are those of this machine in this minute; the ratios travel. Every figure states its
load: 16 callers for JSON and refusals, 64 for streams of 20 deltas 2 ms apart, a body of 2 KB, one gateway
process, PostgreSQL with fsync and synchronous_commit on, all on the same cores as the load generator.
"""

import argparse
import sys

from rich.progress import Progress

from bench import measure, report
from bench.desk_pairs import CALLERS
from bench.stack import running_stack
from governance.ops.processes import CannotRun

LOAD = (
    f"{measure.JSON_CALLERS} JSON callers · {measure.STREAM_CALLERS} stream callers, {measure.DELTAS} deltas "
    f"{measure.CHUNK_DELAY_MS} ms apart · body 2 KB · desk with {CALLERS} callers, 2 budgets · one gateway "
    "process · fsync on"
)


def main() -> None:
    arguments = _parse_arguments()
    lengths = measure.QUICK if arguments.quick else measure.FULL
    count = arguments.rounds or lengths.rounds
    try:
        with running_stack() as stack, Progress(transient=True) as progress:
            task = progress.add_task("measuring", total=count)
            rounds: list[dict[str, float]] = []
            streams = measure.open_streams(stack, lengths)
            measure.warm_up(stack, lengths)
            for _ in range(count):
                figures = measure.one_round(stack, lengths)
                figures |= measure.added_latency([measure.latencies(stack, lengths)])
                figures |= measure.desk_pairs(stack, lengths, CALLERS)
                rounds.append(figures)
                progress.advance(task)
            rounds[-1] |= streams | measure.memory(stack)
    except CannotRun as error:
        sys.exit(str(error))
    report.show(rounds, LOAD)
    print(f"All rounds: {report.save(rounds, LOAD)}")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="What a governed call costs.")
    parser.add_argument("--quick", action="store_true", help="two short rounds")
    parser.add_argument("--rounds", type=int, metavar="N", help="how many rounds instead")
    return parser.parse_args()


if __name__ == "__main__":
    main()
