"""REST: HTTP and JSON."""
