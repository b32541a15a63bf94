from django.apps import AppConfig


class OpsConfig(AppConfig):
    name = "governance.ops"
    label = "ops"
