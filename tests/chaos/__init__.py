"""Fault injection: kills, stops, outages and disk errors while jobs run."""
