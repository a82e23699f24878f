"""Both parties played on one machine: the demo, its model and its data."""
