"""Video and audio VAE: pixels and waveforms to latents."""
