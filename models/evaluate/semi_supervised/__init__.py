"""What do few labels give on frozen features, and how much do unlabelled images add? The cache of features beside a
run, and the methods that learn on them: neighbours, logistic regression, label spreading, a Gaussian mixture.

`models/evaluate/semi.py` is the evaluator. May import what `models.evaluate` may. Read `problem.py` first.
"""
