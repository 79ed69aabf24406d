"""Code that runs inside the sandbox, by the system's interpreter alone: it imports nothing of this package.

Each module is handed over as text; :mod:`mdsd_bounds.judge.sandbox` says how.
"""
