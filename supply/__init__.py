"""Software supply chain: vulnerability audit of the locked packages."""
