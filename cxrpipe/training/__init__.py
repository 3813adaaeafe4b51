"""Fine-tuning, below Ray: what is learned from which studies, how, and what a finished model leaves beside its weights.

`plan` decides, `examples` are what is learned from, `fit` is the loop over epochs, `course` the phases around it,
`outcome` what is left beside the weights.
"""
