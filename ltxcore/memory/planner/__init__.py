"""What each way of placing a transformer needs, and the fastest that fits."""
