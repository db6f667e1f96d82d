"""How does a run come to be, go on and end? What is checked before the first step, the state that the loop changes, stops,
hangs, and the report at the end.

May import every other room of `models`; `train.py` is the loop. Read `trainer.py` first.
"""
