"""One model over its rounds: its records, what they have given away, and which lineage a file belongs to."""
