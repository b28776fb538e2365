"""An upload on an ingest worker: the parent process claims and monitors, the child process runs the sandbox."""
