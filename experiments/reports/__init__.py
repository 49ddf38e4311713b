"""What a run did, as tables, charts and a page of one file."""
