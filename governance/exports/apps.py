from django.apps import AppConfig


class ExportsConfig(AppConfig):
    name = "governance.exports"
    label = "exports"
