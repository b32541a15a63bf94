"""The Django project: settings, URLs, and one small app per noun. docs/map.md says which is which."""

from governance.celery import app as celery_app

__all__ = ["celery_app"]
