"""The model owner's half: noise, reparameterizations, denoising, and the secret lineage."""
