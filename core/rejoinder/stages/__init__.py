"""The stages of a turn: listen, brain, voice, playout."""
