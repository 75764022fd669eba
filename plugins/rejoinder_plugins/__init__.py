"""Built-in providers and tools, each a plugin like a stranger's."""
