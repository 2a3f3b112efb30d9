"""A look into a bundle, even one that nobody vouches for."""
