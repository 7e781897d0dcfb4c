"""The next characters of a text."""
