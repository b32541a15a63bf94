"""How the gateway shows in an OpenAPI schema. Import it where a schema is made: a gateway worker is not."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.generators import SchemaGenerator

from governance.gateway.authentication import KeyAuthentication


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
