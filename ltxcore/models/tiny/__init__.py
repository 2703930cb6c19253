"""Random, tiny models of the real classes."""
