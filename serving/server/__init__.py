"""The server as a whole, and its process."""
