"""What a model does on rows: metrics, one file each, and the probe of `perturb`."""
