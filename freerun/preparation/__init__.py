"""Preparation of large data: pairs are encoded once, in parallel and in bounded memory, for many trainings."""
