"""Measures of exposure bias: NumPy functions of recorded teacher-forced and free-running outputs."""
