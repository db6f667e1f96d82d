"""How do threads and waits end? Threads that a process can leave behind, and how many it should have on its cores; a
pool of them that runs compiled kernels over slices of a batch, work that is begun ahead, copies to the device that
nothing waits for, and the watchdog of a wait.

May import `errors`. Read `threads.py` first.
"""
