"""Training: the loop, its schedules and strategies, checkpoints and the run directory. Knows tasks by their protocol."""
