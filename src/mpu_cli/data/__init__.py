"""Rows to forget and to keep: formats, templates, batches."""
