"""Types of setting values. `--help` and docs/settings.md show the second argument of Annotated: `--out URL`."""

from typing import Annotated, Literal

Url = Annotated[str, "URL"]
"""An object or a folder: s3://bucket/key, file:///path or a plain path."""
LocalPath = Annotated[str, "PATH"]
"""A file or a folder on this machine."""
Id = Annotated[str, "ID"]
Name = Annotated[str, "NAME"]

Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
Split = Literal["train", "valid", "test"]
SplitOrAll = Literal["all", "train", "valid", "test"]
