"""Every refusal is a value: status, type, machine reason, sentence. On the wire it is Anthropic's envelope.

    CallRefused            raised with a Refusal wherever the path ends without an answer from upstream
    └─ caught in views.py (in asgi.py for what has no view); Gateway.refuse records it where a tenant is known
       and counts it always

What upstream refuses is not here: its envelope is relayed as it came (relay.py).
"""

from dataclasses import dataclass
from typing import Literal

import msgspec
from django.conf import settings
from rest_framework.exceptions import APIException

from governance.gateway.responses import PRIVATE, GatewayResponse, Headers

type ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "billing_error",
    "permission_error",
    "not_found_error",
    "conflict_error",
    "policy_blocked",
    "request_too_large",
    "rate_limit_error",
    "timeout_error",
    "overloaded_error",
    "api_error",
]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call got no answer.

    `reason` is for machines, metrics and the call's row; `message` is one sentence or two for a person.
    Every reason has its section in docs/errors.md, and `text` is the message with that section's address.
    `close` also ends the connection: its unread request body is not worth reading.
    """

    status: int
    type: ErrorType
    reason: str
    message: str
    headers: Headers = ()
    close: bool = False

    @property
    def text(self) -> str:
        """What the caller reads."""
        return f"{self.message.rstrip('.')}. More: {settings.ERROR_PAGES_URL}/{self.reason}"


class CallRefused(APIException):
    """Ends the call with this refusal."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.status_code = refusal.status


DO_NOT_RETRY: Headers = ((b"x-should-retry", b"false"),)
"""SDKs retry every 408, 409, 429 and 5xx, and Claude Code every 401, unless told not to."""


def retry_after(seconds: int) -> Headers:
    return ((b"retry-after", b"%d" % seconds), (b"x-should-retry", b"true"))


def error_body(refusal: Refusal, request_id: str) -> bytes:
    """The refusal in Anthropic's error shape: a whole reply's body, or the data of a stream's last event."""
    error = {"type": refusal.type, "message": refusal.text}
    return msgspec.json.encode({"type": "error", "error": error, "request_id": request_id})


def envelope(refusal: Refusal, request_id: str) -> GatewayResponse:
    """The refusal as a response."""
    body = error_body(refusal, request_id)
    call_id = request_id.encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"request-id", call_id),
        (b"exchequer-call-id", call_id),
        (b"exchequer-decision", refusal.reason.encode()),
        *PRIVATE,
        *refusal.headers,
    ]
    if refusal.close:
        headers.append((b"connection", b"close"))
    return GatewayResponse(refusal.status, headers, body)


# --- Who is asking --------------------------------------------------------------------------------


def _unauthenticated(reason: str, message: str) -> Refusal:
    return Refusal(401, "authentication_error", reason, message, DO_NOT_RETRY)


NO_KEY = _unauthenticated(
    "no_key", "No API key was sent. Send your Exchequer key in x-api-key or as “Authorization: Bearer …”."
)
TWO_KEYS = _unauthenticated(
    "two_keys", "Two different credentials were sent. Send one Exchequer key, in x-api-key or as Bearer."
)
JUNK_KEY = _unauthenticated(
    "junk_key",
    "This is not an Exchequer key: they look like exq_… and carry a checksum, which does not match. "
    "Copy the key again, whole.",
)
UNKNOWN_KEY = _unauthenticated(
    "unknown_key", "This API key is not known here. Check that it belongs to this installation."
)
KEY_REVOKED = _unauthenticated(
    "key_revoked", "This API key was revoked. Ask your administrator for a new one."
)
KEY_EXPIRED = _unauthenticated(
    "key_expired", "This API key has expired. Ask your administrator for a new one."
)
KEY_LOOKUPS_BUSY = Refusal(
    429,
    "rate_limit_error",
    "key_lookups_busy",
    "Too many unknown API keys are being tried at the moment. Try again in a second.",
    retry_after(1),
)

# --- The process itself ---------------------------------------------------------------------------

SETTINGS_STALE = Refusal(
    503,
    "api_error",
    "settings_stale",
    "Exchequer cannot reach its database, so it cannot tell whether this call is allowed. Nothing was sent "
    "to Claude. Try again in a few seconds.",
    retry_after(2),
)
SETTINGS_MOVED = Refusal(
    503,
    "api_error",
    "settings_moved",
    "A budget of this key was closed a moment ago. Try again in a second.",
    retry_after(1),
)
LEDGER_UNAVAILABLE = Refusal(
    503,
    "api_error",
    "ledger_unavailable",
    "Exchequer cannot write its ledger at the moment, so nothing was sent to Claude. Try again in a few "
    "seconds.",
    retry_after(2),
)
BACKLOG_FULL = Refusal(
    503,
    "overloaded_error",
    "settle_backlog",
    "Exchequer has too many finished calls still to write to its ledger. Try again in a few seconds.",
    retry_after(2),
)
USAGE_BUSY = Refusal(
    429,
    "rate_limit_error",
    "usage_busy",
    "Too many callers ask for their usage at the moment. Try again in a second.",
    retry_after(1),
)
TOO_MANY_WAIT = Refusal(
    429,
    "rate_limit_error",
    "too_many_wait",
    "So many calls wait for room in a budget already that this one may not: they will get in when calls in "
    "flight have ended. Try again in a few seconds.",
    retry_after(5),
)
NO_UPSTREAM_CREDENTIAL = Refusal(
    503,
    "api_error",
    "no_upstream_credential",
    "Exchequer has no Claude API key to call with. An administrator can add a provider credential in the "
    "console, or set ANTHROPIC_API_KEY.",
    DO_NOT_RETRY,
)
INTERNAL = Refusal(
    500,
    "api_error",
    "internal",
    "Exchequer made a mistake while handling this call. Tell your administrator the request id.",
)

# --- Upstream -------------------------------------------------------------------------------------

UPSTREAM_UNREACHABLE = Refusal(
    502,
    "api_error",
    "upstream_unreachable",
    "Exchequer could not connect to the Claude API. Nothing was charged. Try again in a few seconds.",
)
UPSTREAM_CUT = Refusal(
    502,
    "api_error",
    "upstream_cut",
    "The connection to the Claude API broke before its answer was complete. The call may have been billed, "
    "so its worst case was charged.",
)
UPSTREAM_TIMEOUT = Refusal(
    504,
    "timeout_error",
    "upstream_timeout",
    "The Claude API did not answer in time. The call may have been billed, so its worst case was charged.",
)
UPSTREAM_NO_ANSWER = Refusal(
    504, "timeout_error", "upstream_timeout", "The Claude API did not answer in time. Nothing was charged."
)
UPSTREAM_REDIRECT = Refusal(
    502,
    "api_error",
    "upstream_redirect",
    "The Claude API answered with a redirect, which Exchequer does not follow. An administrator should check "
    "ANTHROPIC_BASE_URL.",
    DO_NOT_RETRY,
)

# --- The request ----------------------------------------------------------------------------------


def invalid(reason: str, message: str, status: int = 400) -> CallRefused:
    return CallRefused(Refusal(status, "invalid_request_error", reason, message))


def forbidden(reason: str, message: str) -> CallRefused:
    return CallRefused(Refusal(403, "permission_error", reason, message))


def paused(what: str, reason: str, began_by: str) -> Refusal:
    """`what` as in “this API key”; `began_by` is whom to ask, "" for nobody in particular."""
    return Refusal(
        403,
        "permission_error",
        "paused",
        f"Calls of {what} are paused: {reason.rstrip('.')}. "
        f"{f'Ask {began_by}' if began_by else 'Ask your administrator'} to resume them.",
        DO_NOT_RETRY,
    )


def policy_denied(sentence: str) -> Refusal:
    """`sentence`: what the policy's author wrote for the caller. Claude Code shows it in this shape."""
    return Refusal(400, "policy_blocked", "policy_denied", sentence, DO_NOT_RETRY)


AS_ASKED_NOT_ALLOWED = Refusal(
    403,
    "permission_error",
    "as_asked_not_allowed",
    "This key's calls go where its policies send them: leave out the header exchequer-route, or ask your "
    "administrator for a key that may be served as asked.",
    DO_NOT_RETRY,
)


def not_found(path: str) -> Refusal:
    return Refusal(
        404,
        "not_found_error",
        "no_such_path",
        f"Exchequer does not serve {path[:100]}. It serves /v1/messages, /v1/messages/count_tokens and "
        "/v1/models.",
    )


def method_not_allowed(method: str, allowed: str) -> Refusal:
    return Refusal(
        405,
        "invalid_request_error",
        "wrong_method",
        f"This address does not take {method[:20]}; use {allowed}.",
        ((b"allow", allowed.encode()),),
    )
