"""What a job is checked for before its first stage, and what stages have left for damage."""
