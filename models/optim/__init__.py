"""How do the weights move? Optimisers, the learning rate as a function of the step, and updates that are skipped where
they are not finite.

May import `config` and `distributed`. Read `schedule.py` first.
"""
