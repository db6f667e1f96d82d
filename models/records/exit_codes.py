"""Exit codes of a run's processes, for whatever starts them again. The standard library only."""

DONE, CRASHED, BAD_INPUT, STOPPED = 0, 1, 2, 75
"""Trained to the end; failed; bad input (as pipeline.errors.command exits); saved and stopped on request, to be
continued by the same command (75 is EX_TEMPFAIL of sysexits.h)."""
