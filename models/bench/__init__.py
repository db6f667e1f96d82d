"""What does a step cost? Seconds, FLOPs, memory and bytes on the wire, against the peers' way to write it.

May import every room below `evaluate`. Read `step_time.py` first.
"""
