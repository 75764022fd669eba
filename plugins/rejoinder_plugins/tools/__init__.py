"""Tools any agent may use."""
