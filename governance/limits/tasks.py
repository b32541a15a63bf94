"""What Celery does for the breaker."""

from celery import shared_task

from governance.limits import telling


@shared_task
def tell_of_automatic_pauses() -> int:
    """Mail whatever nobody was told of yet. May run twice, late or in parallel."""
    return telling.tell_of_automatic_pauses()
