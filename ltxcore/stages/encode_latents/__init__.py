"""encode-latents: frames and sound through both VAEs."""
