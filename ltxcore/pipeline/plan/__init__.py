"""Memory plans, from a recipe and a snapshot."""
