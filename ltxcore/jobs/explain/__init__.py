"""Explains why a stage would run or a clip be computed again, and lifts quarantines."""
