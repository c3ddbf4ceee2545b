"""Places where workers run: this machine, Slurm, Ray."""
