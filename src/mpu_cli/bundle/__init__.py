"""What passes between the parties: manifests, digests, and the ordered checks.

Never imports torch.
"""
