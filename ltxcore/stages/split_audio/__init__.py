"""split-audio: the sound that belongs to each sample's frames."""
