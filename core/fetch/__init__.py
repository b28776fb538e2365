"""Download files from untrusted URLs. Only this package connects to such addresses."""
