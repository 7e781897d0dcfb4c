"""A class for a picture."""
