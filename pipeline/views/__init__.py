"""What happens to each image? A plan draws every random number of a batch on the host: where each view is cut, which
operations of RandAugment and colour jitter it gets, what is erased, and which patches stay visible (`masks/`).

Nothing here touches a pixel; `pipeline.executors` carries the plan out.

May import `sampling`, `spec`, `rng`, `text` and `errors`. Read `plan.py` first.
"""
