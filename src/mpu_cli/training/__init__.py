"""One subclass of transformers' Trainer, and what it needs."""
