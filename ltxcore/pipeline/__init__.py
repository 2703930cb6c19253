"""What all stages share: contract, context, data, keys and memory plans."""
