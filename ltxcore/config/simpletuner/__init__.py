"""The files of SimpleTuner, read into recipe and datasets."""
