"""The parts of scripts/mutants.py: what a mutant is, how mutants are found, and how tests run against them."""
