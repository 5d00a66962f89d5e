"""Shards to one set of weights: a pure plan, a gather that copies ranges, one atomic commit."""
