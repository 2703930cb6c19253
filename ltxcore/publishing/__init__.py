"""Publishing a LoRA on the Hugging Face hub: the repository, its card, and what of a file may be public."""
