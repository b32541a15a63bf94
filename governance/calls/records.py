"""The rows of Call and Attempt as the desk takes them: plain records, one field a column.

The `at` column is missing here on purpose: the database's clock fills it in.
"""

from typing import Any, Literal
from uuid import UUID

import msgspec

# Column → how its values travel to PostgreSQL. The order is the order of the record's fields.
type ColumnType = Literal["uuid", "bigint", "text", "boolean", "jsonb", "bytea"]


class CallRecord(msgspec.Struct, kw_only=True, gc=False):
    """One client request. JSON columns hold JSON text; amounts are nano-dollars; see models.Call."""

    id: UUID
    tenant_id: int
    team_id: int | None = None
    key_id: int
    tags: str = "{}"
    end_user: str | None = None
    session: str | None = None
    user_agent: str | None = None
    traceparent: str | None = None
    endpoint: str
    requested_model: str | None = None
    served_model: str | None = None
    stream: bool = False
    outcome: str
    status: int
    reason: str
    rule: str | None = None
    policy_version: int | None = None
    cache: str = "off"
    bound: str | None = None
    decision: str = "{}"
    attempts: int = 0
    held_nanos: int = 0
    cost_nanos: int = 0
    list_nanos: int = 0
    baseline_nanos: int | None = None
    price_version: int | None = None
    facts: str = "{}"
    fingerprints: bytes | None = None
    cache_digest: bytes | None = None
    held_ms: int | None = None
    first_byte_ms: int | None = None
    duration_ms: int = 0


class AttemptRecord(msgspec.Struct, kw_only=True, gc=False):
    """One try upstream; its id is its hold's. JSON columns hold JSON text; see models.Attempt."""

    id: UUID
    call_id: UUID
    tenant_id: int
    key_id: int
    number: int = 1
    purpose: str = "answer"
    credential_id: int | None = None
    requested_model: str | None = None
    served_model: str | None = None
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None
    input_tokens: int | None = None
    cache_creation_5m_tokens: int | None = None
    cache_creation_1h_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int | None = None
    web_search_requests: int | None = None
    passes: str | None = None
    usage_source: str = "none"
    basis: str | None = None
    held_nanos: int
    bound_nanos: int | None = None
    cost_nanos: int
    list_nanos: int
    cost_by_meter: str = "{}"
    price_version: int
    upstream_status: int | None = None
    upstream_request_id: str | None = None
    stop_reason: str | None = None
    error: str | None = None
    first_byte_ms: int | None = None
    duration_ms: int = 0


_JSON_FIELDS = {"tags", "decision", "facts", "passes", "cost_by_meter"}
_BYTES_FIELDS = {"fingerprints", "cache_digest"}


def column_types(record: type[msgspec.Struct]) -> dict[str, ColumnType]:
    """{"id": "uuid", "tenant_id": "bigint", …} in field order."""
    return {field.name: _column_type(field.name, field.type) for field in msgspec.structs.fields(record)}


def _column_type(name: str, annotation: Any) -> ColumnType:
    if name in _JSON_FIELDS:
        return "jsonb"
    if name in _BYTES_FIELDS:
        return "bytea"
    if annotation is UUID:
        return "uuid"
    if annotation is bool:
        return "boolean"
    return "bigint" if annotation in (int, int | None) else "text"
