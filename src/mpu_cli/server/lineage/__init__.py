"""One model over its rounds: the records of its handoffs and models, and what they have exposed.

It may import secrets, and neither publishing, aggregation nor transforms.
"""
