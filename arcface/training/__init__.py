"""Training: puts data, backbone, head and verification together."""
