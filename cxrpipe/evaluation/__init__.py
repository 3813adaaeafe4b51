"""From scores and labels to figures with intervals.

`join` brings both together, `figures` names what can be measured, `findings` and `masks` measure it; `calibration` and
`thresholds` are fitted on the same rows, `drift` compares two runs.
"""
