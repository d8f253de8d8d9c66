"""Class-conditional diffusion models: training small ones, reading pretrained ones, DDIM in both directions."""
