"""How the steps of an experiment are started: in local processes, or as jobs of Slurm."""
