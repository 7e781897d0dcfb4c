"""HTTP/1.1 on the event loop; `serving.rest.api` handles the requests."""
