"""Training: flat functional networks, the differentiable inner loop, plain training loops."""
