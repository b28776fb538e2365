"""`potstill-server`: the processes of the service, separately or as one embedded stack."""
