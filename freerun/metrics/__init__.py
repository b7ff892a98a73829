"""Metrics of outputs against references, computed with NumPy, rapidfuzz and sacrebleu, without models.

The unit of every mean and every interval is the source. Reading order: ``edit_distance``, ``accuracy``, ``bleu``,
``intervals``, ``paired``.
"""
