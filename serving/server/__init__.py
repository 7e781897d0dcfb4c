"""The model server and its process."""
