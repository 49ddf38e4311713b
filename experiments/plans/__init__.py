"""What the steps of a run need on a slice that is not at hand."""
