"""Several drafts of a continuous state: the optimum, rules that verify, and video worlds to try them in.

A stochastic denoising step is one token of a continuous vocabulary: a cheap model proposes n next states, the target
accepts one of them or draws another, and the output follows the target.  ``docs/diffusion.md`` has the theory.

- :mod:`.gaussian`: acceptance of the optimum, of published rules and of a ceiling, for Gaussian steps;
- :mod:`.verify`: rules that attain these numbers, batched over states of any dimension;
- :mod:`.world`, :mod:`.synchronised`, :mod:`.speculate`: long videos from windows (SynCoS), and without loss.
"""
