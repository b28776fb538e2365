"""The scheduler: requeues expired leases, wakes workers, and runs housekeeping."""
