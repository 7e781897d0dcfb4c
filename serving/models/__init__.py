"""From directories to loaded versions."""
