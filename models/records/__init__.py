"""What does a run leave in its folder that can be read without torch? Events, failures, exit codes, rows of metrics,
and the recipe and lock by which a folder belongs to one run. `slurm` reads them between two starts of a job.

Imports `pipeline` and `config`, and no torch. Read `run_folder.py` first.
"""
