"""A run directory: its files, its lock, and how a run resumes."""
