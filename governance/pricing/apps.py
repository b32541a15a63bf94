from django.apps import AppConfig


class PricingConfig(AppConfig):
    name = "governance.pricing"
    label = "pricing"
