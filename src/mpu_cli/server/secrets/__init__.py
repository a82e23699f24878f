"""What never leaves the server: the master secret and everything derived from it."""
