"""What every refusal's sentence ends with an address of: /docs/errors/<reason>, a section of docs/errors.md.

Served by the gateway, because whoever was refused can reach it, and without a key: the page names nobody.
"""

import re
from functools import cache
from typing import Any

from django.conf import settings

from governance.gateway import errors
from governance.gateway.responses import GatewayResponse

_HEADING = re.compile(r"^#{2,3} (.+)$", re.MULTILINE)


@cache
def page() -> str:
    """The whole page, Markdown as it stands in the repository."""
    return (settings.BASE_DIR / "docs" / "errors.md").read_text()


@cache
def sections() -> dict[str, str]:
    """Reason → its section, without the sections around it."""
    found = list(_HEADING.finditer(page()))
    ends = [heading.start() for heading in found[1:]] + [len(page())]
    return {
        heading[1]: page()[heading.start() : end].strip() + "\n"
        for heading, end in zip(found, ends, strict=True)
        if heading[0].startswith("### ")
    }


async def all_errors(request: Any) -> GatewayResponse:
    """GET /docs/errors."""
    return _text(page())


async def one_error(request: Any, reason: str) -> GatewayResponse:
    """GET /docs/errors/{reason}."""
    section = sections().get(reason)
    exchange = request.exchange
    if section is None:
        return exchange.gateway.refuse(exchange, errors.not_found(exchange.path))  # type: ignore[no-any-return]
    return _text(section)


def _text(text: str) -> GatewayResponse:
    body = text.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"x-content-type-options", b"nosniff"),
    ]
    return GatewayResponse(200, headers, body)
