"""What factors share of a target (logits, features, gradients, neighbours), each computed once."""
