"""Evaluation on pairs: teacher-forced and free-running metrics, baselines, comparisons. NumPy only.

Reading order: ``items`` (sources with their references), ``evaluate``, ``free_running``, ``baseline``, ``comparison``,
``examples``, ``predictor_evaluation``.
"""
