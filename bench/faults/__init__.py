"""Failing the n-th call of every path that commits something."""
