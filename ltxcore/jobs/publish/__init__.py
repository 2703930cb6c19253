"""A finished run, and its way to the hub."""
