"""Damaged inputs for every readable form: mutators, forms, and the run that counts what they cause."""
