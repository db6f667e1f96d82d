"""How good is what was learned? This room measures trained runs: accuracy, nearest neighbours, few-shot transfer,
robustness, reconstruction and cost. One evaluator is one file, and its name on the command line is the file's.

    python -m models.evaluate accuracy runs/semi_mae-digits

May import `pipeline`, and every room of `models` that stands before `evaluate` in `tests/test_layout.py`: not `export`
or `training`. Read `evaluator.py` first.
"""
