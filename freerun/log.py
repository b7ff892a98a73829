"""The logger of the library: notices go to ``log.info``, warnings to ``log.warning``, each as one finished sentence.

Nothing is printed unless the program attaches a handler to the logger "freerun"; the commands attach theirs. Importing
``logging`` takes 10 ms, so modules that a single prediction loads import this one only where they log something.
"""

from __future__ import annotations

import logging

__all__ = ["log"]

log = logging.getLogger("freerun")
log.addHandler(logging.NullHandler())
