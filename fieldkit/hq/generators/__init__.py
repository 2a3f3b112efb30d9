"""Small generative models, trained on the data at hand: an autoencoder, and a flow from noise to its latents."""
