"""The network in torch: encoder, bridge, decoder and their parts. Tensors and numbers only, never text."""
