"""The temperature doctor: verdicts on how temperatures moved."""
