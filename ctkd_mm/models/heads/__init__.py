"""Heads of one-stage and two-stage detectors: the class logits of places."""
