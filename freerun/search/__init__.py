"""Search over a ``Stepper``, written once and in NumPy: greedy, beam, sampling, ensembles, forced prefixes, scores."""
