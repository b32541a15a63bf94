from django.apps import AppConfig


class CallsConfig(AppConfig):
    name = "governance.calls"
    label = "calls"
