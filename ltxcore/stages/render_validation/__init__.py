"""render-validation: base and LoRA side by side."""
