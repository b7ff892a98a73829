"""Forcing strategies, which decide what the decoder is fed in training: one file per strategy, and shared passes."""
