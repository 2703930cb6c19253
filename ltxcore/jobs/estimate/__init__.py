"""What a run would do, write and take."""
