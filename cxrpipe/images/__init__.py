"""Decodes files into radiographs and fits them into squares for the networks; stores masks and heat maps. No torch."""
