"""Guards the servers of a workspace: only its own browsers and processes may use them."""
