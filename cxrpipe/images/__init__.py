"""Encoded bytes → radiograph → squares for the networks; masks and heat maps as pictures. Without torch."""
