"""Containers, read at random where they lie: tar, tar.gz, zip, and the arrays of an npz. Nothing is unpacked."""
