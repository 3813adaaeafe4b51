"""The way of a study, in order: prepare, predict, rows, parts. `loop` is the specification; Ray makes it parallel."""
