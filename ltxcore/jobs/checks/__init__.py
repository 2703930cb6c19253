"""Checks of a job before its first stage, and of what stages have left for damage."""
