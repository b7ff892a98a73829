"""Studies of several arms over several seeds.

Reading order: ``plan`` (configuration, directory), ``runner`` (processes), ``results``, ``analysis``, ``differences``.
"""
