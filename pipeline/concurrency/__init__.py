"""How do threads end, and waits end? Threads that a process can leave behind, a pool that runs compiled kernels over
slices of a batch, copies to the device that nobody waits for, and the watchdog of a wait.

Imports only `errors`. Read `threads.py` first.
"""
