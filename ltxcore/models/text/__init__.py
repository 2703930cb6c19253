"""From captions to the text embeddings of the transformer."""
