"""Serving of SavedModels: `python -m serving` is the server, `serving.client` the client."""
