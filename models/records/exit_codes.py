"""How a run's processes end; the standard library only, as whoever starts them again may import it."""

DONE, CRASHED, BAD_INPUT, STOPPED = 0, 1, 2, 75
"""Exit codes: trained to the end; broke; pipeline.errors.command's; stopped on request (EX_TEMPFAIL): run it again."""
