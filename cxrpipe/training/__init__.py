"""Fine-tuning without Ray.

`plan` decides what is learned from which studies, `examples` makes pixels and targets of studies, `trainer` runs the
phases of a training, `fit` loops over the epochs of a phase, `predictions` holds what the finished model predicts, and
`model_folder` writes the files beside its weights.
"""
