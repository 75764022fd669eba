"""The test kit: virtual time, scripted providers, a session pilot."""
