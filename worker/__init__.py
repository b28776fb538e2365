"""Celery workers, the scheduler and the inspector."""
