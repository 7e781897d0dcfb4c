"""Training: the loop, its schedules, strategies and the run directory. Knows tasks by their protocol."""
