"""The bound on input tokens against what count_tokens says, through the real SDK."""

import io
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from governance.gateway import text_bound
from tests.harness import Stack


@pytest.fixture
def calibrate(stack: Stack, settings: Any) -> Any:
    assert stack.simulator is not None
    settings.ANTHROPIC_API_KEY, settings.ANTHROPIC_BASE_URL = "sk-ant-simulated", stack.simulator.url

    def run(*arguments: str) -> str:
        out = io.StringIO()
        try:
            call_command("calibrate", *arguments, stdout=out)
        except CommandError as error:
            return f"{out.getvalue()}{error}"
        return out.getvalue()

    return run


def test_every_bound_is_above_what_is_counted(calibrate: Any) -> None:
    said = calibrate()
    assert "Every bound holds: 50 of 50 were compared" in said
    assert said.count("a large picture") >= 5


@pytest.mark.parametrize(
    ("constant", "value", "probe"),
    [
        ("IMAGE_TOKENS_MAX", 1_000, "a large picture"),
        ("TOOL_SET_TOKENS", -100, "a small tool"),
        ("BASE_TOKENS", -85, "one word"),
    ],
)
def test_a_constant_that_is_too_low_is_an_error(
    calibrate: Any, monkeypatch: pytest.MonkeyPatch, constant: str, value: int, probe: str
) -> None:
    monkeypatch.setattr(text_bound, constant, value)
    said = calibrate("--model", "claude-opus-5-5")
    (line,) = [line for line in said.splitlines() if probe in line and "TOO LOW" in line]
    assert constant in line
    assert "Too low: " in said
    assert "can cost more than their hold" in said


def test_what_cannot_be_compared_is_said(calibrate: Any, settings: Any) -> None:
    said = calibrate("--model", "claude-nobody", "--model", "claude-haiku-5-5")
    assert "not compared: 404" in said
    assert "10 of 20 were compared" in said
    assert "Nothing could be compared" in calibrate("--model", "claude-nobody")
    assert "does not answer" in calibrate("--base-url", "http://127.0.0.1:9")
    settings.ANTHROPIC_API_KEY = ""
    assert "Set ANTHROPIC_API_KEY" in calibrate()
