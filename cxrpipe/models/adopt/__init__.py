"""Models of others, taken in: one file for each kind of source, each with `adopt(name, config) -> Adopted`."""
