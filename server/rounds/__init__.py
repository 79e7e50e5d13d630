"""The Flower ServerApp and its rounds."""
