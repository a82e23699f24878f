"""The master secret and the random numbers derived from it, which never leave the server.

It may import no other package of the server.
"""
