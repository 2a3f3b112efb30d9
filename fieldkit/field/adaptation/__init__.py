"""A trained model meets what this device sees: labelled samples, or a sensor that has changed."""
