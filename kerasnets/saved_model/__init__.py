"""What an export consists of beside the graph: recorded requests, the model card, smaller weights, other formats."""
