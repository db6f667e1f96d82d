"""How do the weights move? The optimiser and its parameter groups, the learning rate as a function of the step, and one
update: clipping, and no change where loss or gradient is not finite.

May import `pipeline`, `config`, `records` and `distributed`. Read `schedule.py` first.
"""
