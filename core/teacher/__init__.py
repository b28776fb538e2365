"""Teachers: frozen forward passes, training inside a job, and the caches of their outputs and evaluations."""
