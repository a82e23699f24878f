"""A plan: models, rows, methods and a grid of options, read from one YAML file and checked."""
