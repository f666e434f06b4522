"""adlearn: what the notebooks share and do not teach.

>>> import adlearn
>>> run = adlearn.start("00_start_here")
"""

from .runtime import Run, start

__all__ = ["Run", "start"]
__version__ = "0.1.0"
