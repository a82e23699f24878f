"""One file per command; a file here is a command, found by its name."""
