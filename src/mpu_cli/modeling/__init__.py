"""Models in torch: loading, device, processes, log-probabilities, hidden states, tokenizer."""
