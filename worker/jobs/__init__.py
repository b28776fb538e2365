"""A job on a worker: the parent process claims and monitors, the child process runs the pipeline."""
