"""The only package that imports ray: it makes the plain functions parallel."""
