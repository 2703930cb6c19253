"""The six stages: one contract, and what each does to a workspace. Knows nothing of who runs them."""
