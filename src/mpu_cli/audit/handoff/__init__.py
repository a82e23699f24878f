"""What holders of a model owner's handoffs can learn of the model: attacks, and their scores.

`holding`, `alignment` and `attacks` are what the other party has and can do: they import nothing of
the secret, the records or the noise. `truth` and `stated` read the secret, to score what the
attacks found (import-linter checks this).
"""
