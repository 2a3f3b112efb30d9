"""Programs and models as bytes: read, checked, changed and measured without the ``onnx`` package."""
