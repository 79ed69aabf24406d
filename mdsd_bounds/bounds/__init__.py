"""Routes to the optimal acceptance rate.  Each takes a validated problem and returns a bound of shape [N, B]."""
