"""The demo: both parties on one machine, with a small model and its data."""
