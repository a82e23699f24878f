"""Hugging Face model directories: a lazy reader, a streaming writer, digests, side files."""
