"""Self-contained HTML pages and CSV files of runs, lineages, evaluation records and audits."""
