"""A first recipe and dataset file: from what a person wants and from what their clips are."""
