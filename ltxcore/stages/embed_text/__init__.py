"""embed-text: captions and prompts through Gemma."""
