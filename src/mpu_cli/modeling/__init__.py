"""A model as torch runs it: loading, its head, log-probabilities, hidden states."""
