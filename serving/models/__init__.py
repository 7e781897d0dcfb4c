"""Find, load and unload versions of models."""
