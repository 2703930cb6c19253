"""The pages of a dataset, and the summary of a run."""
