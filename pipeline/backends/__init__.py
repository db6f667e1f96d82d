"""Who reads and decodes? FFCV's decoder, DALI, or images that were decoded once and are kept in memory.

A back-end takes a plan and returns its views. On a CPU, numba kernels make them right behind the decoder; for a GPU the
decoded pixels cross through a few staging buffers, and `pipeline.executors` makes the views there.

May import `executors`, `views`, `sampling`, `store` and `concurrency`. Read `backend.py` first.
"""
