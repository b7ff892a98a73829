"""From files of pairs to batches of ids.

Reading order: ``readers`` (files to pairs), ``normalisation`` (Unicode forms, case), ``tokenizers``, ``vocabulary``,
``codec`` (text to ids and back), ``corpus`` (all pairs as flat arrays), ``batching``. Separate topics:
``hash_sampling`` and ``split`` (by hash of the source), ``choose`` (tokenization by measurement), ``writers``, and
``builtin`` (datasets of the package).
"""
