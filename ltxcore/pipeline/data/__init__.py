"""What a snapshot says for a recipe, from the files' headers alone."""
