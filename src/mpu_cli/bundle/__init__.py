"""Bundles, the directories that pass between the parties: manifests, digests, ordered checks."""
