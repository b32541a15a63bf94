"""Structured logs: one JSON object a line on standard error. No prompts, no replies, no secrets.

The call path logs only what needs a person; what happened to each call is in its row.
"""

import logging
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

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


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, event, and exception where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(redact(line)).decode()


def configure(level: str = "INFO") -> None:
    """Send every logger of this process through the redaction to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # Without any handler in reach: uvicorn puts each line together before a logger that is only disabled can
    # throw it away.
    logging.getLogger("uvicorn.access").propagate = False
