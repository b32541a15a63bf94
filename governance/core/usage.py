"""What one answer consumed, read from what the API says it *served*, never from what was asked.

`served_passes` reads a complete Message; `UsageTap` reads the two SSE events that carry usage. Both give
sampling passes, each priced apart: a pass has its own model and its own prompt length. Nothing here
guesses: usage that cannot be read raises UsageUnreadable, and the caller charges a bound instead.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

Speed = Literal["standard", "fast"]
ServiceTier = Literal["standard", "priority", "batch"]

COUNT_MAX = 2**53
"""Above this, counts are no longer exact in the JSON of most languages: a fault, not a bill."""


class UsageUnreadable(ValueError):
    """The reply's usage is missing or malformed; the message is a sentence that names the field."""


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Units per meter, in the order of METERS. Tokens, except the last, which counts searches."""

    input_tokens: int = 0
    cache_creation_5m_tokens: int = 0
    cache_creation_1h_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int = 0
    web_search_requests: int = 0

    def __post_init__(self) -> None:
        if min(self.units) < 0:
            raise ValueError(f"Usage cannot be negative: {self}.")

    @property
    def units(self) -> tuple[int, int, int, int, int, int]:
        """The six counts, in the order of METERS."""
        return (
            self.input_tokens,
            self.cache_creation_5m_tokens,
            self.cache_creation_1h_tokens,
            self.cache_read_input_tokens,
            self.output_tokens,
            self.web_search_requests,
        )

    @property
    def prompt_tokens(self) -> int:
        """Everything that went in: what long-prompt prices are decided by."""
        return (
            self.input_tokens
            + self.cache_creation_5m_tokens
            + self.cache_creation_1h_tokens
            + self.cache_read_input_tokens
        )

    @property
    def uncached(self) -> "Usage":
        """The same tokens with the whole prompt as plain input."""
        return Usage(
            input_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            web_search_requests=self.web_search_requests,
        )

    @property
    def cache_creation_input_tokens(self) -> int:
        return self.cache_creation_5m_tokens + self.cache_creation_1h_tokens


class Pass(msgspec.Struct, frozen=True, gc=False):
    """One sampling pass as served. `inference_geo` is '' where the reply does not say."""

    model: str
    usage: Usage
    speed: Speed = "standard"
    service_tier: ServiceTier = "standard"
    inference_geo: str = ""


def total_usage(passes: Iterable[Pass]) -> Usage:
    """The passes' usage added up: for facts and display, never for pricing (each pass is priced apart)."""
    return Usage(*map(sum, zip(*(p.usage.units for p in passes), strict=True)))


def served_passes(message: Mapping[str, Any]) -> tuple[Pass, ...]:
    """The passes of a complete Message body, at least one; raises UsageUnreadable.

    Where `usage.iterations` is present, each iteration is a pass at its own model: compaction, advisor and
    fallback passes are billed there only. What the totals show beyond the iterations (web searches, which
    iterations do not carry) becomes one more pass, so nothing reported goes unpriced and nothing twice.
    """
    model = _text(message, "model", "The reply")
    raw = _mapping(message.get("usage"), "usage")
    totals = _read_usage(raw, "usage", one_hour_tokens_left=None)
    served = {
        "speed": _choice(raw, "speed", ("standard", "fast")),
        "service_tier": _choice(raw, "service_tier", ("standard", "priority", "batch")),
        "inference_geo": _geo(raw),
    }
    iterations = raw.get("iterations")
    if not iterations:
        return (Pass(model, totals, **served),)
    if not isinstance(iterations, list):
        raise UsageUnreadable("usage.iterations is not a list.")
    passes = [
        Pass(iteration_model, usage, **served)
        for iteration_model, usage in _read_iterations(iterations, model, totals)
    ]
    remainder = _beyond(totals, total_usage(passes))
    if any(remainder.units):
        passes.append(Pass(model, remainder, **served))
    return tuple(passes)


class UsageTap:
    """Reads usage off a stream: feed it every decoded message_start and message_delta, in order.

    Feeding never raises, so that a reply is relayed whatever its usage looks like; `passes()` does.
    Deltas are cumulative: a later total supersedes a smaller one and is never added to it. The split of
    cache writes by TTL, speed, tier and geo are in message_start only.
    """

    __slots__ = ("_model", "_stopped", "_usage", "finished", "started")

    def __init__(self) -> None:
        self.started = False
        self._model: Any = None
        self._usage: dict[str, Any] = {}
        self._stopped = False
        self.finished = False
        """Whether `passes()` is final: the delta that stopped the message, or a later one, had totals."""

    def on_message_start(self, event: Mapping[str, Any]) -> None:
        """The payload of `message_start`: {"type": …, "message": {…, "usage": {…}}}."""
        self.started = True
        message = event.get("message")
        if isinstance(message, Mapping):
            self._model = message.get("model")
            self._take(message.get("usage"))

    def on_message_delta(self, event: Mapping[str, Any]) -> None:
        """The payload of `message_delta`: {"type": …, "delta": {…}, "usage": {…}}; usage may be absent."""
        delta = event.get("delta")
        if isinstance(delta, Mapping) and delta.get("stop_reason") is not None:
            self._stopped = True
        usage = event.get("usage")
        self._take(usage)
        if self._stopped and isinstance(usage, Mapping) and usage.get("output_tokens") is not None:
            self.finished = True

    def _take(self, usage: object) -> None:
        if isinstance(usage, Mapping):
            kept = self._usage
            for name, value in usage.items():
                before = kept.get(name)
                # What is cumulative cannot shrink: of two counts that disagree the larger one is charged.
                if value is not None and not (type(value) is type(before) is int and 0 <= value < before):
                    kept[name] = value

    @property
    def exact_input(self) -> Usage | None:
        """The input side as `message_start` reports it (a delta may raise it: server-tool loops grow it).

        None before message_start, or where its usage cannot be read.
        """
        if not self.started:
            return None
        try:
            usage = _read_usage(self._usage, "usage", one_hour_tokens_left=None)
        except UsageUnreadable:
            return None
        return Usage(*usage.units[:4])

    def passes(self) -> tuple[Pass, ...]:
        """The passes by what was seen so far; final once `finished`. Raises UsageUnreadable."""
        if not self.started:
            raise UsageUnreadable("The stream ended before its message_start event.")
        return served_passes({"model": self._model, "usage": self._usage})


def _read_usage(raw: Mapping[str, Any], where: str, one_hour_tokens_left: int | None) -> Usage:
    """One usage object. The 1h share of cache writes is its split's, capped by the total; the rest is 5m.

    `one_hour_tokens_left`: the 1h share for an object that carries no split of its own.
    """
    split = raw.get("cache_creation")
    split = {} if split is None else _mapping(split, f"{where}.cache_creation")
    five_minutes = _count(split, "ephemeral_5m_input_tokens", where, required=False)
    one_hour = _count(split, "ephemeral_1h_input_tokens", where, required=False)
    if raw.get("cache_creation_input_tokens") is None:
        written = five_minutes + one_hour
    else:
        written = _count(raw, "cache_creation_input_tokens", where)
    if not split and one_hour_tokens_left:
        one_hour = one_hour_tokens_left
    one_hour = min(one_hour, written)
    server_tools = raw.get("server_tool_use")
    server_tools = {} if server_tools is None else _mapping(server_tools, f"{where}.server_tool_use")
    return Usage(
        input_tokens=_count(raw, "input_tokens", where),
        cache_creation_5m_tokens=written - one_hour,
        cache_creation_1h_tokens=one_hour,
        cache_read_input_tokens=_count(raw, "cache_read_input_tokens", where, required=False),
        output_tokens=_count(raw, "output_tokens", where),
        web_search_requests=_count(server_tools, "web_search_requests", where, required=False),
    )


def _read_iterations(iterations: list[Any], model: str, totals: Usage) -> Iterable[tuple[str, Usage]]:
    """Each iteration's model and usage; one without a model ran on the message's.

    An iteration whose cache writes are not split by TTL takes its 1h share from what the totals still have.
    """
    one_hour_tokens_left = totals.cache_creation_1h_tokens
    for index, iteration in enumerate(iterations):
        where = f"usage.iterations[{index}]"
        raw = _mapping(iteration, where)
        usage = _read_usage(raw, where, one_hour_tokens_left)
        one_hour_tokens_left = max(0, one_hour_tokens_left - usage.cache_creation_1h_tokens)
        yield (model if raw.get("model") is None else _text(raw, "model", where)), usage


def _beyond(totals: Usage, billed: Usage) -> Usage:
    """What `totals` show and `billed` does not, per meter. A cache write counts once, whatever its TTL."""
    written = max(0, totals.cache_creation_input_tokens - billed.cache_creation_input_tokens)
    one_hour = min(written, max(0, totals.cache_creation_1h_tokens - billed.cache_creation_1h_tokens))
    return Usage(
        input_tokens=max(0, totals.input_tokens - billed.input_tokens),
        cache_creation_5m_tokens=written - one_hour,
        cache_creation_1h_tokens=one_hour,
        cache_read_input_tokens=max(0, totals.cache_read_input_tokens - billed.cache_read_input_tokens),
        output_tokens=max(0, totals.output_tokens - billed.output_tokens),
        web_search_requests=max(0, totals.web_search_requests - billed.web_search_requests),
    )


def _count(raw: Mapping[str, Any], name: str, where: str, *, required: bool = True) -> int:
    value = raw.get(name)
    if value is None and not required:
        return 0
    if type(value) is not int or not 0 <= value <= COUNT_MAX:  # a bool is an int to isinstance
        raise UsageUnreadable(f"{where}.{name} is {value!r:.60}, not a count from 0 to 2^53.")
    return value


def _mapping(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageUnreadable(f"{where} is {'missing' if value is None else 'not an object'}.")
    return value


def _text(raw: Mapping[str, Any], name: str, where: str) -> str:
    value = raw.get(name)
    if not isinstance(value, str) or not value:
        raise UsageUnreadable(f"{where} does not name the {name} that served it.")
    return value


def _choice(raw: Mapping[str, Any], name: str, known: tuple[str, ...]) -> Any:
    """A price dimension: absent means the first; one that we have no price for is not guessed at."""
    value = raw.get(name)
    if value is None:
        return known[0]
    if value not in known:
        raise UsageUnreadable(f"usage.{name} is {value!r:.60}; known are {', '.join(known)}.")
    return value


def _geo(raw: Mapping[str, Any]) -> str:
    value = raw.get("inference_geo")
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UsageUnreadable("usage.inference_geo is not text.")
    return value
