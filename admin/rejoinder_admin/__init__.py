"""The operators' panel (its routes come with a later release)."""
