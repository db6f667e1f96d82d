"""How does each service take a run? One adapter a file; `run.track` is its name. The service's own package is imported
when the adapter opens a run, and found in its own environment variables is whatever says where it sends and as whom.

May import `tracker`. Read `wandb.py` first.
"""
