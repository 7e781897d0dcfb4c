"""`python -m serving.compare`: compare two versions of a model."""
