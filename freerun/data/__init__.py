"""From files of pairs to batches of ids.

Reading order: ``readers`` (files to pairs), ``text`` (Unicode forms, case), ``tokenizers``, ``vocabulary``, ``codec``
(text to ids and back), ``corpus`` (all pairs as flat arrays), ``batching``; beside them ``sampling`` and ``split`` (by
hash of the source), ``choose`` (tokenisation by measurement), ``writers`` and ``builtin`` (data sets of the package).
"""
