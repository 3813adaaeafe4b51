"""What people look at: tables on the terminal, sheets of studies, PNGs for slides, report.html.

Import from its modules: matplotlib takes a second, and few need it.
"""
