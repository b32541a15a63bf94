from django.apps import AppConfig


class OpsConfig(AppConfig):
    name = "governance.ops"
    label = "ops"

    def ready(self) -> None:
        from governance.ops import checks  # noqa: F401  importing registers them
