"""Programs in the graph formats of others: ONNX and NIR."""
