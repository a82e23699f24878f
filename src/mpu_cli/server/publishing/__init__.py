"""The model owner publishes copies: `mpu perturb`."""
