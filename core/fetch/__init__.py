"""Files from addresses that strangers name: what may be connected to, and how. The one way out to such addresses."""
