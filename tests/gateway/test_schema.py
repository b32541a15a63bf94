"""The gateway's endpoints are DRF's, so they show in an OpenAPI schema."""

from governance.gateway.schema import gateway_schema


def test_the_endpoints_and_their_key_are_in_the_openapi_schema() -> None:
    schema = gateway_schema()
    create = schema["paths"]["/v1/messages"]["post"]
    assert create["operationId"] == "create_message"
    assert create["security"] == [{"ExchequerKey": []}]
    assert "exchequer-tags" in [parameter["name"] for parameter in create["parameters"]]
    assert {"/v1/messages/count_tokens", "/v1/models", "/v1/models/{model}"} <= schema["paths"].keys()
    assert schema["components"]["securitySchemes"]["ExchequerKey"]["name"] == "x-api-key"
