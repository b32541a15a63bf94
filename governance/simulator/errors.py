"""The documented error envelope: types, statuses, and `ApiError`, which every refusal is raised as."""

from typing import Any

import msgspec

STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}

DEFAULT_MESSAGE_OF_TYPE = {
    "billing_error": "Your credit balance is too low to access the Claude API.",
    "permission_error": "Your API key does not have permission to use the specified resource.",
    "rate_limit_error": "This request would exceed your organization's rate limit.",
    "api_error": "Internal server error",
    "timeout_error": "The request timed out.",
    "overloaded_error": "Overloaded",
}

REASON_OF_STATUS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    413: "Content Too Large",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    529: "Site Overloaded",
}


class ApiError(Exception):
    """A refusal in Anthropic's shape. `headers` are sent besides the usual ones."""

    def __init__(
        self,
        error_type: str,
        message: str,
        *,
        status: int | None = None,
        error_code: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.message = message
        self.status = status or STATUS_OF_TYPE.get(error_type, 500)
        self.error_code = error_code
        self.headers = headers


def invalid(message: str, error_code: str | None = None) -> ApiError:
    """A 400 `invalid_request_error`."""
    return ApiError("invalid_request_error", message, error_code=error_code)


def envelope(error_type: str, message: str, request_id: str, error_code: str | None = None) -> bytes:
    """The JSON body of an error, as the documentation shows it."""
    error: dict[str, Any] = {"type": error_type, "message": message}
    if error_code is not None:
        error["details"] = {"error_code": error_code}
    return msgspec.json.encode({"type": "error", "error": error, "request_id": request_id})
