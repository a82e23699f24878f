"""`mpu aggregate`: validate updates, sum their changes, and record the new model.

It may import lineage, transforms and secrets, and never publishing.
"""
