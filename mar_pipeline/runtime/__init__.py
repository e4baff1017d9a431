"""Where a program runs: its processes, its device, and the signals that stop it."""
