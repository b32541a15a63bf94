"""The bill is the truth that others are compared with: first, whole, and never lost."""

import asyncio
import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anthropic
import pytest

from governance.simulator.app import Simulator
from governance.simulator.bill import Bill, read_bill
from governance.simulator.launch import RunningSimulator, running_simulator
from governance.simulator.server import serve
from tests.simulator.asking import HELLO, connect, read_all, request_bytes, script_header, scripted


def never(error: OSError) -> None:
    raise AssertionError(error)


def test_a_charge_names_the_request_and_its_usage(
    client: anthropic.Anthropic, simulator: RunningSimulator, tag: str
) -> None:
    raw = client.messages.with_raw_response.create(**HELLO, **scripted(tag=tag))
    [charge] = simulator.charges(tag)
    assert charge["request_id"] == raw.headers["request-id"]
    assert charge["message_id"] == raw.parse().id
    assert charge["usage"] == raw.http_response.json()["usage"]
    assert (charge["model"], charge["model_asked"], charge["stream"]) == (
        HELLO["model"],
        HELLO["model"],
        False,
    )


def test_refusals_counting_and_listing_are_not_billed(
    client: anthropic.Anthropic, simulator: RunningSimulator, tag: str
) -> None:
    question = {"model": HELLO["model"], "messages": HELLO["messages"]}
    before = len(simulator.charges())
    client.messages.count_tokens(**question, **scripted(tag=tag))
    client.models.list(**scripted(tag=tag))
    for script in ({"error": {"type": "api_error"}}, {"unknown": 1}):
        with pytest.raises(anthropic.APIStatusError):
            client.messages.create(**HELLO, **scripted(**script))
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(**{**HELLO, "model": "claude-nobody"})
    assert len(simulator.charges()) == before


def test_the_bill_is_written_before_the_latency_and_the_first_byte(
    simulator: RunningSimulator, tag: str
) -> None:
    for stream in (False, True):
        with connect(simulator.url) as connection:
            body = json.dumps({**HELLO, "stream": stream}).encode()
            connection.sendall(request_bytes(body, script_header(tag=tag, latency_ms=60_000)))
            deadline = time.monotonic() + 5
            while len(simulator.charges(tag)) < 1 + stream and time.monotonic() < deadline:
                time.sleep(0.01)
    assert [charge["stream"] for charge in simulator.charges(tag)] == [False, True]


def test_a_client_that_leaves_is_billed_in_full_and_noted(simulator: RunningSimulator, tag: str) -> None:
    body = json.dumps({**HELLO, "stream": True}).encode()
    with connect(simulator.url) as connection:
        connection.sendall(request_bytes(body, script_header(tag=tag, deltas=20, chunk_delay_ms=50)))
        assert connection.recv(10)
    deadline = time.monotonic() + 5
    while not simulator.lines("left", tag) and time.monotonic() < deadline:
        time.sleep(0.01)
    [left] = simulator.lines("left", tag)
    [charge] = simulator.charges(tag)
    assert left["request_id"] == charge["request_id"]
    assert 1 <= left["writes_sent"] < left["writes"] == 22
    assert charge["usage"]["output_tokens"] > 1


def test_the_bill_is_served_from_any_line_on(client: anthropic.Anthropic, tag: str) -> None:
    for _ in range(3):
        client.messages.create(**HELLO, **scripted(tag=tag))
    everything = client.get("/simulator/bill", cast_to=object)
    assert [line["tag"] for line in everything["lines"]][-3:] == [tag] * 3
    rest = client.get(f"/simulator/bill?since={everything['next'] - 2}", cast_to=object)
    assert [line["seq"] for line in rest["lines"]] == [everything["next"] - 1, everything["next"]]


def test_no_reply_is_missing_from_the_bill_after_kill_9(tmp_path: Path) -> None:
    bill = tmp_path / "bill.jsonl"
    replies: list[str] = []

    def ask_until_it_dies(url: str) -> None:
        with anthropic.Anthropic(api_key="sim", base_url=url, max_retries=0) as client:
            while True:
                try:
                    response = client.messages.with_raw_response.create(**HELLO)
                except anthropic.APIConnectionError:
                    return
                replies.append(response.headers["request-id"])

    with running_simulator(bill=bill) as running, ThreadPoolExecutor(8) as pool:
        for _ in range(8):
            pool.submit(ask_until_it_dies, running.url)
        deadline = time.monotonic() + 10
        while len(replies) < 100 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(running.process.pid, signal.SIGKILL)
    billed = {line["request_id"] for line in read_bill(bill)}
    assert len(replies) >= 100
    assert set(replies) <= billed

    with running_simulator(bill=bill) as again:  # it goes on where it stopped, and no id comes twice
        with anthropic.Anthropic(api_key="sim", base_url=again.url) as client:
            client.messages.create(**HELLO)
        assert [line["seq"] for line in again.charges()] == list(range(1, len(billed) + 2))
        assert len({line["request_id"] for line in again.charges()}) == len(billed) + 1


async def test_nothing_is_acknowledged_before_the_disk_has_it(tmp_path: Path) -> None:
    disk_is_ready = threading.Event()
    syncs = []

    def slow_disk(fd: int) -> None:
        disk_is_ready.wait(10)
        syncs.append(fd)

    acknowledged: list[int] = []
    loop = asyncio.get_running_loop()
    bill = Bill(tmp_path / "bill.jsonl", loop, sync=slow_disk, on_failure=never)
    for number in range(50):
        bill.append({"kind": "charge"}, lambda number=number: acknowledged.append(number))
    await asyncio.sleep(0.1)
    assert acknowledged == []
    disk_is_ready.set()
    await asyncio.to_thread(bill.close)
    await asyncio.sleep(0)
    assert acknowledged == list(range(50))
    assert 1 <= len(syncs) <= 3  # what gathers while one sync runs shares the next
    assert len(read_bill(tmp_path / "bill.jsonl")) == 50


async def test_no_byte_of_a_reply_leaves_before_the_disk_has_its_charge(tmp_path: Path) -> None:
    disk_is_ready = threading.Event()
    bill = Bill(
        tmp_path / "bill.jsonl",
        asyncio.get_running_loop(),
        sync=lambda fd: disk_is_ready.wait(10),
        on_failure=never,
    )
    listener = socket.create_server(("127.0.0.1", 0))
    port, stop = listener.getsockname()[1], asyncio.Event()
    serving = asyncio.create_task(serve(Simulator(bill=bill), listener, stop))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_bytes(json.dumps(HELLO).encode()))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.2)
    disk_is_ready.set()
    assert await asyncio.wait_for(reader.read(8), 5) == b"HTTP/1.1"
    writer.close()
    stop.set()
    await serving
    await asyncio.to_thread(bill.close)


async def test_a_torn_last_line_is_cut_off_and_a_damaged_one_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "bill.jsonl"
    path.write_bytes(b'{"seq":1,"kind":"charge"}\n{"seq":2,"ki')
    assert [line["seq"] for line in read_bill(path)] == [1]
    bill = Bill(path, asyncio.get_running_loop(), on_failure=never)
    bill.append({"kind": "charge"})
    await asyncio.to_thread(bill.close)
    assert [line["seq"] for line in read_bill(path)] == [1, 2]
    path.write_bytes(b'{"seq":1,\n{"seq":2,"kind":"charge"}\n')
    with pytest.raises(ValueError, match="damaged line"):
        read_bill(path)


def test_a_simulator_that_cannot_write_its_bill_answers_nothing_and_ends() -> None:
    with running_simulator(bill=Path("/dev/full")) as running:
        with connect(running.url) as connection:
            connection.sendall(request_bytes(json.dumps(HELLO).encode()))
            assert read_all(connection)[0] == b""
        assert running.process.wait(10) == 1
