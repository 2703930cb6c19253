"""Weights on disk: layouts, hashes, quantising, and loading them."""
