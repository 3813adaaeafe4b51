"""Containers, read at random where they lie: tar, tar.gz, zip, and the arrays of an npz. No container is unpacked."""
