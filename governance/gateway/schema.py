"""How the gateway shows in an OpenAPI schema. Import it where a schema is made: a gateway worker is not."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view

from governance.gateway import views
from governance.gateway.authentication import KeyAuthentication

_TAGS = OpenApiParameter(
    "exchequer-tags",
    str,
    OpenApiParameter.HEADER,
    description="Labels of this call, such as endpoint=faq,feature=search.",
)

extend_schema_view(
    post=extend_schema(
        operation_id="create_message",
        parameters=[_TAGS],
        request=OpenApiTypes.OBJECT,
        responses={(200, "application/json"): OpenApiTypes.OBJECT, (200, "text/event-stream"): str},
    )
)(views.MessagesView)
extend_schema_view(
    post=extend_schema(
        operation_id="count_tokens", request=OpenApiTypes.OBJECT, responses=OpenApiTypes.OBJECT
    )
)(views.CountTokensView)
extend_schema_view(get=extend_schema(operation_id="models", responses=OpenApiTypes.OBJECT))(views.ModelsView)
extend_schema_view(get=extend_schema(operation_id="usage", responses=OpenApiTypes.OBJECT))(views.UsageView)


class KeyAuthenticationScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """An Exchequer key, as `x-api-key` (or as Bearer, which the schema leaves unsaid)."""

    target_class = KeyAuthentication
    name = "ExchequerKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "apiKey", "in": "header", "name": "x-api-key"}


def gateway_schema() -> dict[str, Any]:
    """The OpenAPI document of the gateway's addresses."""
    generator = SchemaGenerator(urlconf="governance.gateway.urls")  # type: ignore[no-untyped-call]
    schema: dict[str, Any] = generator.get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    return schema
