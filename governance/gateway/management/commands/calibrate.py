"""manage.py calibrate [--model claude-opus-5-5 …]"""

from typing import Any

import anthropic
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from governance.gateway.bound import CONTEXT_WINDOW_TOKENS_MAX
from governance.gateway.calibration import Comparison, compare
from governance.pricing.loading import load_book
from governance.pricing.tables import PriceBookIncomplete

MODELS = ("claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5", "claude-fable-5-2", "claude-opus-4-6")
"""Both tokenizers, both sizes of pictures."""
TRIES_MAX = 3
COUNT_SECONDS_MAX = 30.0


class Command(BaseCommand):
    help = (
        "Compare the worst case of input tokens with what Claude counts (count_tokens, which is free), for "
        "text, tools, output formats and pictures. Exits with an error where a bound is too low. With the "
        "simulator it says that the comparison works, not that the bound is right."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--model", action="append", metavar="ID", help="repeat for several; five when left out"
        )
        parser.add_argument("--base-url", help="another API than ANTHROPIC_BASE_URL")

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.ANTHROPIC_API_KEY:
            raise CommandError("Set ANTHROPIC_API_KEY: counting is free, but Claude wants to know who asks.")
        try:
            book = load_book(connection)
        except PriceBookIncomplete as error:
            raise CommandError(str(error)) from None
        base_url = options["base_url"] or settings.ANTHROPIC_BASE_URL
        client = anthropic.Anthropic(
            api_key=settings.ANTHROPIC_API_KEY,
            base_url=base_url,
            max_retries=TRIES_MAX - 1,
            timeout=COUNT_SECONDS_MAX,
        )

        def window(model: str) -> int:
            facts = book.model(model)
            return facts.context_window_tokens if facts else CONTEXT_WINDOW_TOKENS_MAX

        self.stdout.write(f"Input tokens as {base_url} counts them, and the bound that calls are held for:")
        found: list[Comparison] = []
        with client:
            for comparison in compare(options["model"] or MODELS, lambda *ask: _count(client, *ask), window):
                found.append(comparison)
                self.stdout.write(_line(comparison))
        self.stdout.write(_verdict(found))


def _count(client: anthropic.Anthropic, model: str, fields: dict[str, Any]) -> int | str:
    try:
        return client.messages.count_tokens(model=model, **fields).input_tokens
    except anthropic.APIStatusError as error:
        return f"{error.status_code}: {error.message}"[:120]
    except anthropic.APIConnectionError as error:
        raise CommandError(f"{client.base_url} does not answer: {error}") from None


def _line(comparison: Comparison) -> str:
    head = f"  {comparison.model:22} {comparison.probe.name:24}"
    if comparison.counted_tokens is None:
        return f"{head} not compared: {comparison.refusal}"
    share = comparison.counted_tokens * 100 // max(1, comparison.bound_tokens)
    said = "TOO LOW: " + comparison.probe.constant if comparison.too_low else f"{share} % of it"
    return f"{head} {comparison.counted_tokens:>8,} of {comparison.bound_tokens:>8,}  {said}"


def _verdict(found: list[Comparison]) -> str:
    """What was compared; CommandError where a bound is too low, or nothing could be compared."""
    compared = [comparison for comparison in found if comparison.counted_tokens is not None]
    if not compared:
        raise CommandError("Nothing could be compared; see above.")
    low = sorted({comparison.probe.constant for comparison in compared if comparison.too_low})
    if low:
        raise CommandError(
            f"Too low: {', '.join(low)} (governance/gateway/text_bound.py). Until that is mended, calls "
            "like these can cost more than their hold."
        )
    near = max(compared, key=lambda each: (each.counted_tokens or 0) / max(1, each.bound_tokens))
    return (
        f"Every bound holds: {len(compared)} of {len(found)} were compared. The nearest is {near.probe.name} "
        f"on {near.model}, with {near.spare_tokens:,} tokens to spare."
    )
