"""Which published copy a found model came from, told by the noise that only the server knows.

The noise of every copy can be drawn again from the secret. A model that was not made from a copy is
independent of its noise ε, so the product of ε with any function of the model is exactly normal,
whatever the model is. The false-positive rate follows from that, without a reference set.
"""
