"""Ways in: transports that expose sessions over WebSocket and REST."""
