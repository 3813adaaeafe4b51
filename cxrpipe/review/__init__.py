"""The reading room: a local web application that shows what a night scored, and takes readers' verdicts.

Needs the extra `review`: pip install 'cxrpipe[review]'.
"""
