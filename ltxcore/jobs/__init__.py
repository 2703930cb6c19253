"""About a whole job: whether it can end well, what it would take, what came of it, and its publication."""
