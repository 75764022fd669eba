"""Turn-taking, decided without I/O."""
