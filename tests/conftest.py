"""Settings of the whole suite's processes, made before anything imports torch."""

import os

# libgomp's threads spin while they wait for each other. Beside other busy processes (xdist, a stack) that makes
# a training step ten times slower; sleeping costs a few per cent on an idle machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
