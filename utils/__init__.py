"""What the scripts are made of.

Idle threads of OpenMP spin for a while before they sleep. With libgomp's default a script that shares its cores with
other processes is several times slower, and a short while costs nothing (`benchmarks/shared_cores.py`). libgomp reads
this when torch is imported.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
