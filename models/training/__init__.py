"""How does a run begin, go on and end? The checks before the first step, the state that the loop changes, stops on
request or without progress, the best checkpoint, signs of life, and the evaluation and report at the end.

May import every other room of `models`; `train.py` is the loop. Read `trainer.py` first.
"""
