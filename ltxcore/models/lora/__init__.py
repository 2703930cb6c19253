"""LoRA files of any trainer: reads their headers, checks which programs load them, merges, resizes and
renames them."""
