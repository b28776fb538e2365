"""The database's schema, step by step (Alembic). `core.store.schema.migrate` runs them."""
