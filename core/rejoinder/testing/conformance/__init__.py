"""The conformance kit: what the engine expects of each kind of plugin, as rules that can be run and measured."""
