"""What has a run left on disk, readable without torch? Events, failures, exit codes, rows of JSON and final scores;
`slurm` reads them between two starts.

The standard library and `pipeline.errors` and `pipeline.text` only. Read `events.py` first.
"""
