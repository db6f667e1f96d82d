"""What does a training step cost? This room counts its FLOPs, times it, and computes the bytes that it sends, and it
compares the packed step with the separate forward passes of other libraries.

May import `pipeline`, and every room of `models` that stands before `bench` in `tests/test_layout.py`: not `evaluate`,
not `training`. Read `step_time.py` first.
"""
