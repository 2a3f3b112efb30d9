"""Running programs: onnxruntime behind one door, and the loop that trains."""
