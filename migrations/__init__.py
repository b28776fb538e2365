"""Schema migrations (Alembic). `core.store.schema.migrate` runs them."""
