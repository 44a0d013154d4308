"""A trained network as files for others: a folder, an ONNX file, a torch.export file."""
