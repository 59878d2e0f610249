"""Suggests a range of temperatures for a pair of models, from its logits."""
