"""A range of temperatures for a pair, from its own logits."""
