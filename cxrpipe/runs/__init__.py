"""Exactly once: a score root, the runs in it, and what they know of each other."""
