"""From scores and labels to figures with intervals.

`joined` brings them together, `figures` are what can be said, `compute` says it; `calibration` and `thresholds` are
fitted on the same rows, `drift` compares two runs.
"""
