"""The functions of ``import freerun``, one module each: arguments checked, results returned, nothing printed.

The commands call them too. A module imports only what its function needs: evaluating an exported model needs no torch.
"""
