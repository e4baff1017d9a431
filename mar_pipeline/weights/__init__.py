"""Trained networks as files: weights, the network that they belong to, ONNX, model card."""
