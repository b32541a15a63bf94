from django.apps import AppConfig


class ResponseCacheConfig(AppConfig):
    name = "governance.response_cache"
    label = "response_cache"
    default_auto_field = "django.db.models.BigAutoField"
