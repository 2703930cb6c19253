"""judge-lora: the new LoRA against the champion, on held-out clips, and the gate."""
