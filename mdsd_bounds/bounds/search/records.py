"""What the compiled searches hand to each other: small records of arrays, which compiled code takes as they are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Answers(NamedTuple):
    """Minimum of ``P - Q`` for some of the numbers of drafts, ``[N, B]`` each, and where it is: what a search fills in.

    ``best`` was evaluated, nothing is below ``low``, each to ``error``.  H is the fixed most probable tokens and those
    with ``(p / (scale q), index)`` up to ``(ratio, token)`` (token -1: strictly smaller ratios only).  Rows that are
    not ``usable`` hold nothing.
    """

    best: np.ndarray
    low: np.ndarray
    error: np.ndarray
    ratio: np.ndarray
    token: np.ndarray
    scale: np.ndarray
    size: np.ndarray
    usable: np.ndarray


class Asked(NamedTuple):
    """What is asked without replacement: fixed tokens, numbers of draws (rising), and how the search goes about it."""

    fixed: int
    draws: np.ndarray
    #: Error of Q for each number of draws when every sum that enters has a relative error of one.
    sensitivity: np.ndarray
    #: Ratios at the edges of the cells.
    edge: np.ndarray
    tolerance: float
    #: Tokens whose sums are made apart: fewer additions in a row where many draws magnify their rounding.
    lot: int
    #: Largest rounding error of the sums accepted.
    rounding: float


class Quadrature(NamedTuple):
    """Constants of the trapezoid rule for all numbers of draws up to the largest."""

    step: float
    #: Error of the rule and of its cuts.
    error: float
    #: Ends of the node range (:func:`.outer_approximation_kernel.node_range`).
    right: np.ndarray
    left: np.ndarray
    #: ``m! S(k, m)/k!`` and the coefficients of ``-log(2 - e^x)``.
    weights: np.ndarray
    rest: np.ndarray


class Race(NamedTuple):
    """What all evaluations of Q for one row share."""

    #: The last node T, all nodes ``[G]``, and the step of their logarithms.
    last: float
    times: np.ndarray
    step: float
    weights: np.ndarray
    #: Filled by :func:`.exponential_race_kernel.heavy_table`.
    table: np.ndarray
    most: int
    draws: np.ndarray
    #: ``[2 most + 1, G]`` scratch.
    work: np.ndarray


class Run(NamedTuple):
    """Edges 0 .. ``edges``: their quantities ``[M + 1, 12]``, heavy tokens before each, ratios between neighbours."""

    line: np.ndarray
    held: np.ndarray
    low: np.ndarray
    high: np.ndarray
    edges: int


class Spans(NamedTuple):
    """Stretches of a run with Q at both ends: ``[S, 2]`` or ``[S]`` edges, and Q ``[S, N]`` left and right."""

    edge: np.ndarray
    left: np.ndarray
    right: np.ndarray


class Best(NamedTuple):
    """For each number of draws: least ``P - Q`` found, a lower bound of what was set aside, the edge of the former."""

    value: np.ndarray
    low: np.ndarray
    edge: np.ndarray


class Row(NamedTuple):
    """One row: its distributions, fixed tokens and their P; ``scale`` is one over ``total``, the mass of q off them."""

    place: int
    p: np.ndarray
    q: np.ndarray
    fixed: np.ndarray
    held: float
    total: float
    scale: float
    #: The largest token that is not fixed, and the share of the others.
    largest: int
    others: float


class Classes(NamedTuple):
    """Bounds on ``q T`` between the classes of tokens; the cell that H never holds, and the ratio where it begins."""

    light: float
    least: float
    never: int
    cut: float


class Top(NamedTuple):
    """Room for the largest tokens of a row: facts of its blocks, the tokens, the mass outside them."""

    sums: np.ndarray
    peak_bits: np.ndarray
    peaks: np.ndarray
    value: np.ndarray
    token: np.ndarray
    outside: np.ndarray
    fixed: np.ndarray
    spare: np.ndarray


class Cells(NamedTuple):
    """Room for the cells of a row: masses in each, the cell of each token, names and ranks of those that hold any."""

    mass: np.ndarray
    lot: np.ndarray
    extra: np.ndarray
    of: np.ndarray
    name: np.ndarray
    rank: np.ndarray
    begin: np.ndarray
    wanted: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Tokens(NamedTuple):
    """Room for listed and sorted tokens, and for a strip of ratios and rates."""

    listed: np.ndarray
    grouped: np.ndarray
    spare: np.ndarray
    ratio: np.ndarray
    spare_ratio: np.ndarray
    place: np.ndarray
    strip_ratio: np.ndarray
    strip_rate: np.ndarray


class Runs(NamedTuple):
    """Room for the run of cells, the run of tokens of one cell, and the spans that their searches keep."""

    cells: np.ndarray
    cells_held: np.ndarray
    tokens: np.ndarray
    tokens_held: np.ndarray
    stack: Spans
    opened: Spans
    ends: Spans
    none: Spans
    best: Best
    at_end: np.ndarray
    #: Cells that H holds whole, and tokens that it holds of the next, for each number of draws.
    whole: np.ndarray
    more: np.ndarray


class Nodes(NamedTuple):
    """Room for the nodes, the scratch at each, and the heavy tokens' rates and what runs beside them."""

    times: np.ndarray
    work: np.ndarray
    heavy_rate: np.ndarray
    beside: np.ndarray


class Space(NamedTuple):
    """All room that the search without replacement needs, made once for all rows of a thread.

    The histograms' ``lot``, ``extra`` and ``wanted`` are zero between two rows.
    """

    top: Top
    cells: Cells
    tokens: Tokens
    runs: Runs
    nodes: Nodes
    #: Where the table of heavy tokens begins; rows that need more make their own.
    table: np.ndarray


class Edges(NamedTuple):
    """With replacement: P and q up to each edge between cells, by how much P - Q may fall inside a cell, P - Q, Q."""

    target: np.ndarray
    inside: np.ndarray
    drop: np.ndarray
    value: np.ndarray
    power: np.ndarray
    name: np.ndarray


class Room(NamedTuple):
    """All room that the search with replacement needs, made once for all rows of a thread.

    Masses of the cells, the same of every second token, the cell of each token; ranks of the cells that hold any, where
    their tokens begin, the edges between them, which are wanted (zeros between two rows) and open.
    """

    mass: np.ndarray
    other: np.ndarray
    cell: np.ndarray
    rank: np.ndarray
    begin: np.ndarray
    edges: Edges
    wanted: np.ndarray
    is_open: np.ndarray
    tokens: Tokens
