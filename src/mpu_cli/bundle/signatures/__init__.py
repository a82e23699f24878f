"""SSH signatures (SSHSIG) of manifests: making, verifying, and whose keys may sign."""
