"""Runs that are held against each other: arms, trials, claims."""
