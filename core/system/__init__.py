"""Operating-system matters: sandbox, parent death, out-of-memory kills, atomic writes, disk cache, fault injection."""
