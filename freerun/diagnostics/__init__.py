"""Exposure bias, measured: NumPy functions of what a model did on right prefixes and on its own."""
