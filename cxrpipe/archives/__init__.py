"""Archives of radiographs: layouts, containers, the catalogue, and the reader of their bytes."""
