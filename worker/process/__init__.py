"""Child processes of a worker: fork, monitor, log tail, watchdog, memory usage."""
