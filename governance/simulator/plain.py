"""Plain mode, for benchmarks: the first answer for each model and `stream` is kept and sent again as it is.

What is measured then is the gateway and not this server: nothing is checked after the first request, nothing
is billed, and ids, dates and the echoed words repeat. A request with a script is answered in full.
"""

from typing import Any

from msgspec import DecodeError, Struct
from msgspec.json import Decoder

from governance.simulator.answer import Answer
from governance.simulator.app import Request, Simulator
from governance.simulator.script import HEADER


class _Asked(Struct):
    model: str
    stream: bool = False


_decoder = Decoder(_Asked)


class PlainSimulator(Simulator):
    """Answers POST /v1/messages from memory; everything else as a Simulator does."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._kept: dict[tuple[str, bool], Answer] = {}

    def answer(self, request: Request) -> Answer:
        if request.path != "/v1/messages" or HEADER in request.headers:
            return super().answer(request)
        try:
            asked = _decoder.decode(request.body)
        except DecodeError:
            return super().answer(request)
        kept = self._kept.get((asked.model, asked.stream))
        if kept is None:
            kept = super().answer(request)
            if kept.status == 200:
                self._kept[asked.model, asked.stream] = kept
        return kept
