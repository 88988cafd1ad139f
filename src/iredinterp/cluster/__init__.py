"""The workflow on a SLURM cluster from a laptop, over plain ssh and rsync."""
