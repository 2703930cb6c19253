"""LTX-2 LoRA training as a library: media, models, memory, store, training, validation, tracking.

Nothing in here knows of Prefect, and nothing heavy (torch, diffusers, transformers) is imported at
module scope by the modules that a flow needs before its stage starts.
"""
