"""Bulk scoring of chest X-ray archives: from tar files on S3 to one Parquet row per study."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("cxrpipe")
except PackageNotFoundError:  # run from a working folder that Ray unpacked, without installation
    __version__ = "0+unpacked"
