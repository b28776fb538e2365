"""What the service is built from: known vulnerabilities of it, and a list of it."""
