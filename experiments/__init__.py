"""The main job, its configurations and its report."""
