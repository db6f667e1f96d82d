"""How good is what was learned? One evaluator is one file: accuracy, k-NN, few-shot transfer, robustness, reconstruction,
throughput.

May import every room but `export`, `pretrained` and `training`. Read `base.py` first.
"""
