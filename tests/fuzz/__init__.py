"""Readers on mutated inputs: each returns or raises an error for the user, in bounded time."""
