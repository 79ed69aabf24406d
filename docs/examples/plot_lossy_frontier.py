"""
What loss buys
==============

Acceptance of ten lossy rules against the total variation of their output, from the table of
`the frontier of lossy verification <../lossy_frontier.html>`_.  No rule lies above the line ``alpha* + TV``.
"""

import pandas as pd

from mdsd_bounds.plots import lossy_frontier

lossy_frontier(
    pd.read_csv("../results/lossy/frontier.csv"),
    registered={"optimal within a budget (tv_budget)": "tv_budget", "typical acceptance": "typical_acceptance"},
)
