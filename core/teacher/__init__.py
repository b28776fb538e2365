"""Teachers: running them frozen, training them in a job, finding them again."""
