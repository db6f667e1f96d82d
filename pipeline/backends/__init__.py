"""Who reads and decodes, and who carries the plan out? FFCV's decoder, DALI, or images kept in memory; views by numba
beside the decoder, or on the device from pixels that cross through a few staging buffers.

May import `views`, `sampling`, `store` and `concurrency`. Read `base.py` first.
"""
