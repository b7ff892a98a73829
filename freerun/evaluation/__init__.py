"""A Stepper on pairs: teacher-forced and free-running figures, baselines, comparisons. NumPy only.

Reading order: ``items`` (sources with their references), ``evaluate``, ``free_running``, ``baseline``, ``compare``,
``examples``.
"""
