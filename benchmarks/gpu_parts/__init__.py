"""The parts of `benchmarks/gpu.py`: a module for each, with `run(sheet, device)`, and what they share."""
