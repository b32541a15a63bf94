"""Structured logs: one JSON object a line on standard error. No prompts, no replies, no secrets.

The call path logs only what needs a person; what happened to each call is in its row.
"""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

_SECRETS = re.compile(
    r"\bexq_[0-9A-Za-z]{8}_[0-9A-Za-z_]{8,}"
    r"|\bsk-ant-[0-9A-Za-z_\-]{4,}"
    r"|(?i:\bbearer\s+)[0-9A-Za-z._~+/\-]{8,}=*"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
_SECRET_NAMES = {"authorization", "x-api-key", "api_key", "password", "proxy-authorization", "cookie"}
REDACTED = "[redacted]"


def redact(value: Any) -> Any:
    """Any log value without keys, credentials and passwords, however deep they sit."""
    if isinstance(value, str):
        return _SECRETS.sub(REDACTED, value)
    if isinstance(value, bytes):
        return redact(value.decode("utf-8", "replace"))
    if isinstance(value, Mapping):
        return {
            name: REDACTED if str(name).lower() in _SECRET_NAMES else redact(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple | set):
        return [redact(inner) for inner in value]
    return value


def _redact_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {
        name: REDACTED if name.lower() in _SECRET_NAMES else redact(value) for name, value in event.items()
    }


def configure(level: str = "INFO") -> None:
    """Send every logger of this process through the redaction to standard error."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _redact_event,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn.access").disabled = True
