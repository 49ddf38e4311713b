"""The stages of a run, from expert files to an evaluated policy."""
