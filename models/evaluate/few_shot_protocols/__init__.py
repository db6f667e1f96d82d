"""How is a classifier learned from k images of each class? Data sets and their shots, the two ways to learn (linear
probing, fine-tuning), the two protocols that select settings (held_out, elevater), the metrics, also of several labels
an image (VOC2007), and the table.

`models/evaluate/few_shot.py` is the evaluator. May import what `models.evaluate` may. Read `setting.py` first.
"""
