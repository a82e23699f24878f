"""Hugging Face model directories.

A lazy reader, a streaming writer, digests, side files, staging.
"""
