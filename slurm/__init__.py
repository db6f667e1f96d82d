"""Where and how does training run on a cluster? This room submits recipes, sweeps and modules as Slurm jobs (or as
processes of this machine), snapshots their code, restarts them after crashes and preemption, and reports their state.

    python -m slurm.submit semi_mae:in1k_10pct --nodes 8 --gpus 8 --hours 24

May import `train`, `models` and `pipeline`. What runs between two starts of a job (`attempt.py`, `first_failure.py`,
`job_events.py`) and the commands that report (`commands.py`) load neither torch nor numpy. Read `submit.py` first, then
`batch_script.py`.
"""
