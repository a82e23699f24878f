"""Records of evaluations: what one holds, how it is read and written, and where it came from.

A record holds numbers, not texts, unless `--texts` asks for them, so it can be shown to someone who
may not see the rows.
"""
