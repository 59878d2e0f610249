"""Repairs of the OpenMMLab stack, and its bounds; nothing else patches it."""
