"""`python -m governance.simulator --port 8100 --bill bill.jsonl`: see README.md."""

import argparse
import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import uvloop

from governance.simulator.app import Simulator
from governance.simulator.bill import Bill
from governance.simulator.errors import ApiError
from governance.simulator.plain import PlainSimulator
from governance.simulator.quota import RequestQuota
from governance.simulator.script import PLAIN, Script, parse_script
from governance.simulator.server import BACKLOG, serve


def main() -> None:
    arguments = _parse_arguments()
    try:
        listener = _bind(arguments)
        listener.listen(BACKLOG)  # before the ready line: whoever reads it may connect at once
    except OSError as error:
        sys.exit(f"The simulator cannot listen on {arguments.host}:{arguments.port}: {error.strerror}.")
    uvloop.run(_run(arguments, listener))


async def _run(arguments: argparse.Namespace, listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    bill = None
    if arguments.bill is not None:
        sync = None if arguments.no_fsync else os.fdatasync
        bill = Bill(arguments.bill, loop, sync=sync, on_failure=_cannot_bill)
    make_simulator = PlainSimulator if arguments.plain else Simulator
    quota = None
    if arguments.requests_per_minute is not None:
        quota = RequestQuota(arguments.requests_per_minute, arguments.burst or arguments.requests_per_minute)
    simulator = make_simulator(seed=arguments.seed, bill=bill, default_script=arguments.script, quota=quota)
    host, port = listener.getsockname()[:2]
    print(f"The simulator serves at http://{host}:{port}", flush=True)
    await serve(simulator, listener, stop)
    if bill is not None:
        bill.close()


def _cannot_bill(error: OSError) -> None:
    """A reply that is not on the bill would be a lie to every test: stop at once."""
    print(f"The simulator cannot write its bill and stops: {error}.", file=sys.stderr, flush=True)
    os._exit(1)


def _bind(arguments: argparse.Namespace) -> socket.socket:
    if arguments.fd is not None:
        return socket.socket(fileno=arguments.fd)
    family = socket.AF_INET6 if ":" in arguments.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((arguments.host, arguments.port))
    return listener


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m governance.simulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument(
        "--port", type=int, default=8100, help="0 takes a free one; the line printed names it"
    )
    parser.add_argument("--fd", type=int, help="serve on this inherited, bound socket instead")
    parser.add_argument("--bill", type=Path, metavar="PATH", help="append every charge to this file")
    parser.add_argument(
        "--no-fsync", action="store_true", help="do not wait for the disk before replying (benchmarks only)"
    )
    parser.add_argument("--seed", default="", help="another seed gives other filler, tool ids and signatures")
    parser.add_argument(
        "--script",
        type=_script,
        default=PLAIN,
        metavar="JSON",
        help="for requests without one",
    )
    parser.add_argument("--requests-per-minute", type=int, help="of a credential and model; 429 beyond it")
    parser.add_argument("--burst", type=int, help="so many at once; the requests of a minute if left out")
    parser.add_argument(
        "--plain", action="store_true", help="repeat the first answers (benchmarks only; no bill)"
    )
    arguments = parser.parse_args()
    if arguments.plain and arguments.bill is not None:
        parser.error(
            "--plain answers from memory and cannot keep a bill; leave one of --plain and --bill out."
        )
    return arguments


def _script(text: str) -> Script:
    try:
        return parse_script(text.encode())
    except ApiError as error:
        raise argparse.ArgumentTypeError(error.message) from None


if __name__ == "__main__":
    main()
