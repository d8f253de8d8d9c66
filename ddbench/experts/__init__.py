"""Networks trained on real data: experts, their trajectory store, and readers of foreign buffers."""
