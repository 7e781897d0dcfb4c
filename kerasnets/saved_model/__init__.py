"""The parts of an export beside the graph: recorded requests, model card, compressed weights, other formats."""
