"""Scores every study exactly once: a score root, and the runs that share it."""
