from django.apps import AppConfig


class DeskConfig(AppConfig):
    name = "governance.desk"
    label = "desk"
