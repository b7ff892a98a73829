"""From a bundle's weights to ONNX graphs that run without torch: written with NumPy and ``onnx.helper`` alone."""
