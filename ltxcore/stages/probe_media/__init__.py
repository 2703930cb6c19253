"""probe-media: from the files of the datasets to a snapshot."""
