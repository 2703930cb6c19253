"""train-lora: the adapter."""
