"""What the decoder is fed in training: one file a strategy, and the passes they share."""
