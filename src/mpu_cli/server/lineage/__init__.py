"""One model over its rounds: the records of its handoffs and models, and what they have exposed.

It may import secrets and the names of transforms, and neither publishing nor aggregation.
"""
