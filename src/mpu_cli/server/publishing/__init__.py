"""`mpu perturb`: decide a draw, check it, write its copies, and record what was handed out.

It may import lineage, transforms and secrets, and never aggregation.
"""
