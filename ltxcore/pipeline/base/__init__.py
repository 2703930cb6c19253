"""What every stage shares: the contract, the context, stamps, progress and batches."""
