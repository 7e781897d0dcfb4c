"""Training: the loop, its schedules, strategies and the run directory. It uses tasks only through their protocol."""
