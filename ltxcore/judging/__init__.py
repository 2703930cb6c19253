"""Whether a new LoRA is better than the champion: paired differences, the gate, and the champions."""
