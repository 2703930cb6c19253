"""Pages and texts from templates: what every page shares, and the escaping of strangers' text."""
