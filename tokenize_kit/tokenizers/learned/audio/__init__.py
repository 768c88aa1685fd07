"""The neural audio codec: sounds to ids of learned codebooks and back, whole or in pieces."""
