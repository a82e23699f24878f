"""One module per family: its first line is documentation, its `cases()` are the cases."""
