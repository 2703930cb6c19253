"""The tests. One thread a process, set before anything imports numpy or torch, and inherited by every child.

So `pytest` as a person types it gives what `make test` gives, and two tests at once on two cores are not
slowed by each other's threads.
"""

import os

for _library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{_library}_NUM_THREADS"] = "1"
