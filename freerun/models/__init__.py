"""The network in torch: encoder, bridge, decoder and what they are made of. Tensors and numbers only, never text."""
