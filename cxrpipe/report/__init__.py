"""What an evaluation looks like: a table on the terminal, PNGs for slides, and `report.html` for everything."""

from cxrpipe.report.collect import collect
from cxrpipe.report.comparison import render_comparison
from cxrpipe.report.figures import draw_confusion, draw_roc
from cxrpipe.report.gallery import PICTURES, Picture
from cxrpipe.report.page import Flow, Report, render
from cxrpipe.report.terminal import print_figures

__all__ = [
    "PICTURES",
    "Flow",
    "Picture",
    "Report",
    "collect",
    "draw_confusion",
    "draw_roc",
    "print_figures",
    "render",
    "render_comparison",
]
