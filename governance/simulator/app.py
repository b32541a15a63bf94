"""One request in, one answer out: routes, credentials, scripts, and the order in which things are refused."""

import base64
import binascii
import hashlib
import itertools
import os
import time
import zlib
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from governance.simulator.answer import Answer, Content, body_sha256, error_answer, make_answer
from governance.simulator.bill import Bill, read_bill
from governance.simulator.caching import CacheSplit, PromptCache
from governance.simulator.catalogue import Model, describe, find_model, list_models
from governance.simulator.checks import VERSIONS, check_body
from governance.simulator.errors import DEFAULT_MESSAGE_OF_TYPE, ApiError, invalid
from governance.simulator.prompt import Segment, mark_breakpoints, segments_of
from governance.simulator.quota import RequestQuota
from governance.simulator.reply import Reply, make_reply
from governance.simulator.script import HEADER, PLAIN, Script, ScriptedError, parse_script
from governance.simulator.stream import stream_writes

BODY_BYTES_MAX = 32 * 1024 * 1024
JSON = "application/json"
EVENT_STREAM = "text/event-stream; charset=utf-8"


@dataclass(slots=True)
class Request:
    method: str
    path: str
    query: str
    headers: dict[bytes, bytes]  # names in lower case
    body: bytes


class Simulator:
    """The state that outlives a request: the prompt cache, how often each script was tried, the bill."""

    def __init__(
        self,
        *,
        seed: str = "",
        bill: Bill | None = None,
        default_script: Script = PLAIN,
        quota: RequestQuota | None = None,
    ) -> None:
        self.bill = bill
        self._quota = quota
        self._seed = seed.encode()[:64]
        self._default_script = default_script
        self._cache = PromptCache()
        self._tries: Counter[str] = Counter()
        # Ids are unique over restarts too: one bill outlives many processes.
        self._id_prefix = os.urandom(8).hex()
        self._numbers = itertools.count(1)

    def answer(self, request: Request) -> Answer:
        """Never raises ApiError: a refusal is an answer too."""
        number = next(self._numbers)
        request_id = f"req_01{self._id_prefix}{number:08x}"
        script = self._default_script
        try:
            header = request.headers.get(HEADER)
            if header is not None:
                script = parse_script(header)
            return self._route(request, script, request_id, number)
        except ApiError as error:
            return error_answer(error, request_id, script)

    def _route(self, request: Request, script: Script, request_id: str, number: int) -> Answer:
        path = request.path
        if path == "/v1/messages":
            _require_method(request, "POST")
            return self._messages(request, script, request_id, number)
        if path == "/v1/messages/count_tokens":
            _require_method(request, "POST")
            return _json_answer(self._count_tokens(request, script), request_id, script)
        if path == "/v1/models" or path.startswith("/v1/models/"):
            _require_method(request, "GET")
            _authenticate(request)
            self._scripted_error(script)
            name = path.removeprefix("/v1/models").strip("/")
            found = describe(find_model(name)) if name else list_models(dict(parse_qsl(request.query)))
            return _json_answer(found, request_id, script)
        if path == "/simulator/bill":
            return _json_answer(self._bill_since(dict(parse_qsl(request.query))), request_id)
        if path == "/livez":
            return _json_answer({"status": "ok", "simulator": True}, request_id)
        raise ApiError("not_found_error", "Not found")

    def _messages(self, request: Request, script: Script, request_id: str, number: int) -> Answer:
        key = _authenticate(request)
        self._scripted_error(script)
        if script.raw_body_b64 is not None and script.raw_status >= 400:
            return make_answer(_raw_content(script, streaming=False), request_id, script)
        body, model, segments = _read(request)
        counted = () if self._quota is None else self._quota.take(key, model.id)
        reply = self._reply(request, body, model, segments, script, key, number)
        streaming = bool(body.get("stream"))
        if script.raw_body_b64 is not None:
            content = _raw_content(script, streaming)
        elif streaming:
            content = Content(200, stream_writes(reply, script, request_id), True, EVENT_STREAM)
        else:
            content = Content(200, [_message_bytes(reply, script)])
        answer = make_answer(replace(content, headers=(*content.headers, *counted)), request_id, script)
        if self.bill is not None:
            answer.charge = {
                "kind": "charge",
                "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "request_id": request_id,
                "message_id": reply.message_id,
                "tag": script.tag,
                "script_id": script.id,
                "key": key,
                "retry_count": request.headers.get(b"x-stainless-retry-count", b"").decode("latin-1"),
                "stream": streaming,
                "model_asked": body["model"],
                "model": reply.model,
                "max_tokens": body["max_tokens"],
                "usage": reply.billed_usage,
                "request_sha256": hashlib.sha256(request.body).hexdigest(),
                "reply_sha256": body_sha256(content, script),
            }
        return answer

    def _reply(
        self,
        request: Request,
        body: dict[str, Any],
        model: Model,
        segments: list[Segment],
        script: Script,
        key: str,
        number: int,
    ) -> Reply:
        split = self._cache_split(body, model, segments, script, key)
        if script.echo:
            script = msgspec.structs.replace(script, text=_echo(request))
        # `stream` is left out, so that a stream and a JSON reply to one question are the same reply.
        question = msgspec.json.encode({**body, "stream": None}, order="deterministic")
        seed = hashlib.blake2b(question, digest_size=16, key=self._seed).digest()
        return make_reply(body, model, script, split, f"msg_01{self._id_prefix}{number:08x}", seed)

    def _cache_split(
        self, body: dict[str, Any], model: Model, segments: list[Segment], script: Script, key: str
    ) -> CacheSplit:
        if not mark_breakpoints(segments, body.get("cache_control")):
            return CacheSplit(sum(segment.tokens for segment in segments))
        effort = (body.get("output_config") or {}).get("effort")
        scope = {
            "all": [key, model.id],
            "system": [body.get("speed")],
            "messages": [body.get("tool_choice"), body.get("thinking"), effort],
        }
        now = time.monotonic() + script.cache_clock_offset_s
        readable_at = now + script.latency_ms / 1000
        return self._cache.account(scope, segments, model.cache_prefix_tokens_min, now, readable_at)

    def _count_tokens(self, request: Request, script: Script) -> dict[str, int]:
        _authenticate(request)
        self._scripted_error(script)
        _, _, segments = _read(request, counting=True)
        return {"input_tokens": sum(segment.tokens for segment in segments)}

    def _scripted_error(self, script: Script) -> None:
        """Raise the error that the script asks for, unless its `times` are used up."""
        error = script.error
        if error is None:
            return
        if error.times is not None or error.after is not None:
            assert script.id is not None
            self._tries[script.id] += 1
            tries = self._tries[script.id]
            if tries > (error.times or tries) or tries <= (error.after or 0):
                return
        raise _api_error(error)

    def _bill_since(self, query: dict[str, str]) -> dict[str, Any]:
        """GET /simulator/bill?since=N: the lines with seq above N, all kinds, and the N to ask for next."""
        if self.bill is None:
            raise ApiError("not_found_error", "This simulator keeps no bill; start it with --bill PATH.")
        since = query.get("since", "0")
        if not since.isdecimal():
            raise invalid("since: Input should be the seq of a line of the bill")
        lines = read_bill(self.bill.path, int(since), kind=None)
        return {"lines": lines, "next": lines[-1]["seq"] if lines else int(since)}


def _require_method(request: Request, method: str) -> None:
    if request.method != method:
        raise ApiError(
            "invalid_request_error", "Method Not Allowed", status=405, headers=(("allow", method),)
        )


def _authenticate(request: Request) -> str:
    """A short digest of the credential, which stands for its workspace. Any key but an empty one will do."""
    headers = request.headers
    key = headers.get(b"x-api-key", b"")
    if not key:
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not key:
            raise ApiError("authentication_error", "x-api-key header is required")
    version = headers.get(b"anthropic-version", b"").decode("latin-1")
    if not version:
        raise invalid("anthropic-version: header is required")
    if version not in VERSIONS:
        raise invalid(f'anthropic-version: "{version}" is not a valid version')
    return hashlib.sha256(key).hexdigest()[:12]


def _read(request: Request, *, counting: bool = False) -> tuple[dict[str, Any], Model, list[Segment]]:
    """The checked body, its model, and its prompt cut into segments."""
    try:
        body = msgspec.json.decode(_decoded_body(request))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(f"The request body is not valid JSON: {error}") from None
    version = request.headers[b"anthropic-version"].decode("latin-1")
    model = check_body(body, version, counting=counting)
    segments = segments_of(body, model)
    total = sum(segment.tokens for segment in segments)
    if total > model.context_window_tokens:
        raise invalid(f"prompt is too long: {total} tokens > {model.context_window_tokens} maximum")
    return body, model, segments


def _decoded_body(request: Request) -> bytes:
    """The body without its content-encoding; gzip and deflate are understood, as the API understands them."""
    encoding = request.headers.get(b"content-encoding", b"identity").decode("latin-1").lower()
    if encoding == "identity":
        return request.body
    if encoding not in ("gzip", "deflate"):
        raise invalid(
            f"The content-encoding “{encoding}” is not supported.", "request_body_encoding_unsupported"
        )
    try:
        decompressor = zlib.decompressobj(wbits=47)  # 32 + 15: takes the zlib or the gzip header as it comes
        body = decompressor.decompress(request.body, BODY_BYTES_MAX + 1)
    except zlib.error:
        raise invalid(f"The request body is not valid {encoding}.", "request_body_encoding_invalid") from None
    if len(body) > BODY_BYTES_MAX:
        raise ApiError(
            "request_too_large",
            "Request exceeds the maximum size once decoded",
            error_code="request_body_too_large_after_decoding",
        )
    return body


def _api_error(error: ScriptedError) -> ApiError:
    headers = list(error.headers.items())
    if error.retry_after is not None:
        headers.append(("retry-after", str(error.retry_after)))
    if error.should_retry is not None:
        headers.append(("x-should-retry", "true" if error.should_retry else "false"))
    message = error.message or DEFAULT_MESSAGE_OF_TYPE.get(
        error.type, f"The simulator was asked for {error.type}."
    )
    return ApiError(
        error.type, message, status=error.status, error_code=error.error_code, headers=tuple(headers)
    )


def _message_bytes(reply: Reply, script: Script) -> bytes:
    message = reply.message() | script.extra_fields
    if script.fault_set.no_usage:
        del message["usage"]
    encoded = msgspec.json.encode(message)
    return encoded[: len(encoded) // 2] if script.fault_set.garbage_json else encoded


def _raw_content(script: Script, streaming: bool) -> Content:
    assert script.raw_body_b64 is not None
    try:
        body = base64.b64decode(script.raw_body_b64, validate=True)
    except binascii.Error:
        raise invalid("The anthropic-simulator header's raw_body_b64 is not base64.") from None
    content_type = script.raw_content_type or (EVENT_STREAM if streaming else JSON)
    return Content(script.raw_status, [body], streaming, content_type)


def _json_answer(data: Any, request_id: str, script: Script = PLAIN) -> Answer:
    return make_answer(Content(200, [msgspec.json.encode(data)]), request_id, script)


def _echo(request: Request) -> str:
    """What reached the simulator, as JSON text. Of a credential only its last four characters."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers.items()}
    for name in ("x-api-key", "authorization"):
        if name in headers:
            headers[name] = "…" + headers[name][-4:]
    received = {
        "method": request.method,
        "path": request.path,
        "query": request.query,
        "headers": headers,
        "body_sha256": hashlib.sha256(request.body).hexdigest(),
    }
    return msgspec.json.encode(received).decode()
