"""`python -m serving.compare`: two versions of a model, side by side."""
