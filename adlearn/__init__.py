"""adlearn: what the notebooks share and do not teach.

>>> import adlearn
>>> run = adlearn.start("00_start_here")
"""

import os

# Before PyTorch starts its threads: on a busy machine, waiting threads that spin took up to half of the time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from .runtime import Run, start

__all__ = ["Run", "start"]
__version__ = "0.1.0"
