"""Figures with intervals, from scores and labels.

`join` joins scores and labels, `figures` defines what is measured, `findings`, `subgroups`, `members` and `masks`
measure it, `calibration` and `thresholds` fit models to the same rows, and `drift` compares two runs.
"""
