"""Figures of outputs against references: NumPy and the two packages rapidfuzz and sacrebleu, no models.

The unit of every mean and every interval is the source. Reading order: ``edit_distance``, ``accuracy``, ``bleu``,
``intervals``, ``paired``.
"""
